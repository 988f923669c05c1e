"""Settings of an evaluation, one dataclass; the command line is made of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.contract.errors import CnlabError

Arm = Literal["control", "shuffled", "prior"]
ARMS: tuple[Arm, ...] = ("control", "shuffled", "prior")


@dataclass(frozen=True)
class EvalConfig:
    """Generate with a run and score it: fidelity to the condition, CLIP score, Frechet and kernel distance."""

    run: Path | None = None
    """Folder of the run, runs/ID."""
    dataset: Path | None = None
    """Folder of the dataset; the one the run was trained on by default."""
    results: Path = Path("results")
    """Where pictures, tables and the report go."""
    images: int = 128
    """Eval samples to use, the first ones in rank order."""
    groups: int = 1
    """Pictures of each sample, from different noise."""
    seed: int = 0
    """Number of the first group."""
    steps: int = 12
    """Denoising steps (UniPC)."""
    guidance: float = 3.0
    """Scale of classifier-free guidance; no negative prompt is used."""
    batch: int = 16
    """Pictures at a time; it does not change them."""
    arms: tuple[Arm, ...] = ARMS
    """True map, another sample's map (the floor), no ControlNet."""
    clip: str = "tabletop"
    """CLIP model that judges captions: tabletop, a folder or a hub name."""
    condition_weights: str = ""
    """Weights of the extractor that measures fidelity, where it has any (mlsd): a folder or a hub name."""
    inception: Path | None = None
    """torch-fidelity's Inception weights for a real FID; without them fd_lite0 and kid_lite0 are reported."""
    device: str = "auto"
    """auto, cpu or cuda."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the generating models."""
    pictures: int = 8
    """Samples shown in the report."""
    report_only: bool = False
    """Write the report from what is in the results folder, nothing else."""
    dry_run: bool = False
    """Say what would be done and stop."""

    def __post_init__(self) -> None:
        """Refuse what cannot work, in one line."""
        for name in ("images", "groups", "steps", "batch", "pictures"):
            least = 2 if name == "images" else 1
            if getattr(self, name) < least:
                raise CnlabError(f"--{name} {getattr(self, name)} is too small; at least {least}")
        if self.seed < 0:
            raise CnlabError(f"--seed {self.seed} is negative")
        if not 0 <= self.guidance <= 100:
            raise CnlabError(f"--guidance {self.guidance} is not between 0 and 100")
        if not self.arms:
            raise CnlabError("--arms is empty; name at least one of control, shuffled, prior")
        if self.run is None and not self.report_only:
            raise CnlabError("which run? give --run runs/ID (or --report-only)")

    @property
    def generation_groups(self) -> tuple[int, ...]:
        """Numbers of the groups; each is the gen_seed of its rows."""
        return tuple(range(self.seed, self.seed + self.groups))
