"""Settings of the commands, one dataclass each; the command line is made of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from evaluation.subjects import NAME, SAMPLED
from pipeline.contract.errors import CnlabError
from trainer.nets.base import BaseOptions

ArmOption = Literal["control", "shuffled", "prior"]


@dataclass(frozen=True)
class RecipeOptions:
    """How pictures are sampled; what is left open is as the named recipe has it."""

    name: Literal["tabletop", "controlnetpp", "paper"] = "tabletop"
    """tabletop: UniPC 12 steps, guidance 3; controlnetpp: UniPC 20, 7.5; paper: DDIM 20, 9."""
    steps: int | None = None
    """Denoising steps."""
    guidance: float | None = None
    """Scale of classifier-free guidance."""
    scheduler: str | None = None
    """A scheduler of diffusers by its class name."""
    negative_prompt: str | None = None
    """Text that guidance leads away from; none by default."""
    strength: tuple[float, ...] | None = None
    """Factor of the ControlNet's outputs, one for all or one for each of several nets; 1 by default."""
    weighting: Literal["both", "none", "paper", "diffusers"] | None = None
    """ControlNet on both halves of guidance, or on the conditional half with weights 1, 64/h, or guess mode's."""
    prompt: Literal["perfect", "insufficient", "conflicting", "none"] | None = None
    """The caption, the paper's insufficient one, another sample's, or none."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Number format of the generating models."""
    block: int | None = None
    """Pictures sampled together; part of what decides their bits. 8 by default; a GPU is faster with more."""

    def __post_init__(self) -> None:
        """Refuse what cannot work, in one line."""
        for name in ("steps", "block"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise CnlabError(f"--recipe.{name} {value} is too small; at least 1")
        if self.guidance is not None and not 0 <= self.guidance <= 100:
            raise CnlabError(f"--recipe.guidance {self.guidance} is not between 0 and 100")
        if self.strength is not None and (not self.strength or not all(0 <= s <= 10 for s in self.strength)):
            raise CnlabError("--recipe.strength needs values between 0 and 10")

    @property
    def changes(self) -> dict[str, object]:
        """The fields that are not left open."""
        return {name: value for name, value in asdict(self).items() if name != "name" and value is not None}


@dataclass(frozen=True)
class JudgeOptions:
    """The models that judge."""

    clip: str = "tabletop"
    """CLIP model that judges captions: tabletop, a folder or a hub name."""
    condition_weights: str = ""
    """Weights of the extractor that measures fidelity, where it has any (mlsd): a folder or a hub name."""
    evaluator: str = ""
    """Another extractor to run on pictures, e.g. a trained one for exact maps that came with the source."""
    features: str = "lite0"
    """Features that distances are taken in: lite0, inception[:WEIGHTS], clip:NAME, torchvision:NAME, model:NAME."""


@dataclass(frozen=True)
class EvalConfig:
    """Generate and score: fidelity to the condition, CLIP score, distances to real pictures, with intervals."""

    run: Path | None = None
    """Folder of a run, runs/ID: its arms are evaluated."""
    control: tuple[str, ...] = ()
    """Instead of a run any ControlNet: a folder, a single file, a hub name, a run; several act together."""
    subject: str = ""
    """Instead of a net: folder:PATH for anybody's pictures, or prior for --model alone."""
    model: str = ""
    """Base model: tabletop, a diffusers folder, one file or a hub name. The run's own by default; another one is a
    transfer."""
    base: Annotated[BaseOptions, tyro.conf.arg(name="")] = field(default_factory=BaseOptions)
    name: str = ""
    """What --control or --subject is called in the tables; by default the last part of its path or hub name."""
    match: Path | None = None
    """For folder:PATH: CSV with the columns file and key; without it names must be keys or hashes of keys."""
    dataset: Path | None = None
    """Folder of the dataset; the one the run was trained on by default."""
    condition: tuple[str, ...] = ()
    """Map column, one for each ControlNet; the run's or the dataset's first by default."""
    results: Path = Path("results")
    """Where pictures, tables and the report go."""
    images: int = 128
    """Eval samples to use, the first ones in rank order; more may be asked for later."""
    groups: int = 1
    """Pictures of each sample, from different noise."""
    seed: int = 0
    """Number of the first group."""
    arms: tuple[ArmOption, ...] = ("control", "prior")
    """The true map, no ControlNet, and on request another sample's map (shuffled)."""
    recipe: RecipeOptions = field(default_factory=RecipeOptions)
    judges: Annotated[JudgeOptions, tyro.conf.arg(name="")] = field(default_factory=JudgeOptions)
    workers: int = 0
    """Local processes that paint, one thread each; 0: two on a CPU of two cores or more, else one.
    Pictures do not depend on it."""
    scheduler: str = ""
    """A running Dask scheduler whose workers paint, tcp://HOST:PORT; they must see the same folders."""
    device: str = "auto"
    """auto, cpu or cuda."""
    pictures: int = 8
    """Samples shown in the report."""
    dry_run: bool = False
    """Say what would be done and stop."""

    def __post_init__(self) -> None:
        """Refuse what cannot work, in one line."""
        for name, least in (("images", 2), ("groups", 1), ("pictures", 1), ("workers", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise CnlabError(f"--{name} {getattr(self, name)} is too small; at least {least}")
        if not self.arms:
            raise CnlabError(f"--arms is empty; name at least one of {', '.join(SAMPLED)}")
        subjects = [bool(self.run), bool(self.control), bool(self.subject)]
        if sum(subjects) != 1:
            raise CnlabError("what is to be evaluated? give --run runs/ID, --control NAME or --subject folder:PATH")
        if self.subject and self.subject != "prior" and not self.subject.startswith("folder:"):
            raise CnlabError(f"--subject {self.subject!r} is neither prior nor folder:PATH")
        if self.name and (self.run or not NAME.fullmatch(self.name) or ":" in self.name):
            raise CnlabError(
                f"--name {self.name!r}: letters, digits and . _ + - for --control or --subject; a run has its own name"
            )
        if self.match and not self.subject.startswith("folder:"):
            raise CnlabError("--match goes with --subject folder:PATH")

    @property
    def generation_groups(self) -> tuple[int, ...]:
        """Numbers of the groups; each is the gen_seed of its rows."""
        return tuple(range(self.seed, self.seed + self.groups))


@dataclass(frozen=True)
class ReportConfig:
    """Write the report from what is in the results folder, nothing else."""

    results: Path = Path("results")
    """Folder of the table."""


@dataclass(frozen=True)
class CompareConfig:
    """Paired differences of subjects that were evaluated on the same samples and noise: each against the first."""

    subjects: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Names as in the column run, e.g. A B or A A/prior; the first is what the others are compared with."""
    results: Path = Path("results")
    """Folder of the table."""
    recipe: str = ""
    """Column recipe, where a subject has several."""
    dataset: str = ""
    """Column dataset, where a subject has several."""
    condition: str = ""
    """Column condition, where a subject has several."""
    model: str = ""
    """Column model, where a subject has several."""
    step: int | None = None
    """Column step, where a run was evaluated at several."""

    def __post_init__(self) -> None:
        """Refuse fewer than two."""
        if len(self.subjects) < 2:
            raise CnlabError("compare needs at least two subjects, such as RUN and RUN/prior")
