"""What a sweep can be told, and the runs that makes: subset size x training seed x arm."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.contract.errors import CnlabError
from pipeline.contract.sizes import format_size, parse_size
from trainer.config import Engine, Precision, TrainConfig, Variant

ARMS = ("steps", "epochs")
VALIDATIONS = 20  # within a run of the steps arm, unless told otherwise: what the convergence detector wants


@dataclass(frozen=True)
class SweepConfig:
    """Train on nested subsets of one dataset, several seeds each: what does a ControlNet gain from more images?"""

    dataset: Path = Path("data/tabletop-canny-20k-s1")  # a finished dataset, as large as the largest size
    sizes: tuple[str, ...] = ("1k", "5k", "20k")  # training samples, each the first n by rank; or one word: 1k,5k,20k
    seeds: int = 3  # training seeds 0 ... n - 1, of weights, order, noise and dropping
    arms: tuple[str, ...] = ARMS  # equal optimizer steps, equal epochs, or both; or one word: steps,epochs
    steps: int | None = None  # of the steps arm, and of the largest size in both; open: the preset's
    target: float | None = None  # fidelity to say how many images it takes; open: a tenth above the largest size's
    model: str = "tabletop"  # the prior: tabletop, a local diffusers folder, or a hub name
    preset: str = ""  # tabletop or sd; empty: by model
    variant: Variant = "controlnet"  # the paper's, or an ablation
    name: str = ""  # folder below out; empty: made from the options
    out: Path = Path("runs")
    batch: int | None = None  # images an optimizer step
    accumulate: int = 1  # micro-batches a step is split into
    lr: float | None = None  # peak learning rate
    prompt_drop: float | None = None  # share of prompts replaced by ""; open: by condition
    flip: bool = False  # mirror half of the pairs
    precision: Precision = "fp32"
    engine: tuple[Engine, ...] = ("channels_last",)
    recipe: dict[str, str] = field(default_factory=dict)  # finer settings over the preset's: NAME VALUE ...
    validate_every: int | None = None  # steps; open: a twentieth of --steps
    save_every: int = 100  # steps between checkpoints
    device: str = "auto"  # auto, cpu, cuda
    yes: bool = False  # start without asking; nothing is asked where there is no terminal
    dry_run: bool = False  # print the plan and what it will cost, and stop

    def __post_init__(self) -> None:
        """Split one-word lists, put them in order, and refuse what cannot work, in one line."""
        sizes = sorted({parse_size(word) for word in _words(self.sizes)})
        arms = set(_words(self.arms))
        if not sizes:
            raise CnlabError("--sizes is empty; give some, as in --sizes 1k,5k,20k")
        if not arms or not arms <= set(ARMS):
            raise CnlabError(f"--arms {' '.join(self.arms)!r} must be steps, epochs or both, as in --arms steps,epochs")
        if self.seeds < 1:
            raise CnlabError("--seeds must be at least 1; intervals need at least 2, and 3 are the least to report")
        object.__setattr__(self, "sizes", tuple(format_size(n) for n in sizes))
        object.__setattr__(self, "arms", tuple(arm for arm in ARMS if arm in arms))

    @property
    def numbers(self) -> list[int]:
        """The sizes, ascending."""
        return [parse_size(word) for word in self.sizes]

    def training(self, condition: str) -> TrainConfig:
        """What all runs share, resolved for a dataset of ``condition``; ``steps`` are those of the largest size."""
        shared: dict[str, Any] = {
            name: getattr(self, name)
            for name in (
                "dataset", "model", "preset", "variant", "steps", "batch", "accumulate", "lr", "prompt_drop", "flip",
                "precision", "engine", "recipe", "save_every", "device",
            )
        }  # fmt: skip
        config = TrainConfig(**shared).resolved(condition)
        assert config.steps is not None
        every = max(config.steps // VALIDATIONS, 1) if self.validate_every is None else self.validate_every
        config = replace(config, validate_every=every)
        config.check()
        return config

    def folder(self, shared: TrainConfig) -> Path:
        """Where sweep and runs go."""
        model = self.model.rstrip("/").rsplit("/", 1)[-1]
        variant = [self.variant] if self.variant != "controlnet" else []
        parts = [self.dataset.name, model, *variant, "sweep", *self.sizes, f"{shared.steps}steps", f"{self.seeds}seeds"]
        return self.out / (self.name or "-".join(parts))

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class PlannedRun:
    """One training run; it serves both arms where they coincide."""

    config: TrainConfig  # resolved
    size: int  # training samples
    arms: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of its folder, and of the run in every table."""
        return self.config.folder.name

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        assert self.config.steps is not None
        return self.config.steps

    @property
    def images(self) -> int:
        """Samples seen, with repetition."""
        assert self.config.batch is not None
        return self.steps * self.config.batch

    @property
    def epochs(self) -> float:
        """Passes over its subset."""
        return self.images / self.size

    def as_dict(self) -> dict[str, Any]:
        """What ``sweep.json`` says of it."""
        return {
            "run": self.name, "arms": list(self.arms), "subset_size": self.size, "train_seed": self.config.seed,
            "steps": self.steps, "images": self.images, "epochs": self.epochs,
        }  # fmt: skip


def plan(config: SweepConfig, condition: str, available: int) -> list[PlannedRun]:
    """Every run once, seed by seed and small sizes first, so that a sweep that is cut short holds whole curves.

    ``available``: training samples of the dataset. Arm ``steps``: every size trains the same number of steps, hence
    sees the same number of samples (DataComp's rule). Arm ``epochs``: every size makes as many passes over its subset
    as the largest makes in the steps arm, to the nearest step, at least one. Raises CnlabError.
    """
    largest = config.numbers[-1]
    if largest > available:
        raise CnlabError(f"{config.dataset} has {available} train samples, --sizes asks for {largest}; build more")
    shared = config.training(condition)
    folder = config.folder(shared)
    runs = []
    for seed in range(config.seeds):
        for size in config.numbers:
            for steps, arms in _steps_of(config.arms, shared.steps or 0, size, largest).items():
                name = f"{folder.name}-n{format_size(size)}-{steps}steps-s{seed}"
                own = replace(shared, out=folder, name=name, subset=format_size(size), steps=steps, seed=seed)
                runs.append(PlannedRun(own, size, tuple(arms)))
    return runs


def _steps_of(arms: Iterable[str], steps: int, size: int, largest: int) -> dict[int, list[str]]:
    """Steps -> the arms in which a size trains that many."""
    found: dict[int, list[str]] = {}
    for arm in arms:
        own = steps if arm == "steps" else max((2 * steps * size + largest) // (2 * largest), 1)
        found.setdefault(own, []).append(arm)
    return found


def _words(given: Iterable[str]) -> list[str]:
    return [word.strip() for text in given for word in text.split(",") if word.strip()]
