"""What a training run can be told; values left at None come from the preset of the prior's family."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from pipeline.io import CnlabError, fingerprint, parse_size

#: One row a family of priors. `tabletop` is measured (docs/log.md); `sd` is the paper's: AdamW at 1e-5, batch 4, half
#: of the prompts dropped, hint encoder (16, 32, 96, 256) as in the released code (controlnet.md, A1 and A2).
PRESETS: dict[str, dict[str, Any]] = {
    "tabletop": {
        "steps": 400, "batch": 16, "lr": 1e-3, "warmup": 20, "schedule": "cosine",
        "hint": (8, 16, 32, 64), "hint_init": "gaussian",
    },
    "sd": {
        "steps": 10_000, "batch": 4, "lr": 1e-5, "warmup": 0, "schedule": "constant",
        "hint": (16, 32, 96, 256), "hint_init": "released",
    },
}  # fmt: skip
#: Options that say how a run is carried out or watched, not what it computes.
OPERATIONAL = ("dataset", "out", "name", "save_every", "log_every", "sample_every", "samples", "dry_run")


@dataclass(frozen=True)
class TrainConfig:
    """Fine-tune a ControlNet on the first SUBSET samples of a dataset."""

    dataset: Path = Path("data/tabletop-canny-2k-s1")  # a finished dataset folder
    model: str = "tabletop"  # the prior: tabletop, a local diffusers folder, or a hub name
    name: str = ""  # folder below out; empty: made from the options
    out: Path = Path("runs")
    subset: str = ""  # training samples, the first n by rank; accepts 1k; empty: all
    preset: str = ""  # tabletop or sd; empty: tabletop for model=tabletop, else sd
    steps: int | None = None  # optimizer steps
    batch: int | None = None  # images a step
    lr: float | None = None  # peak learning rate of AdamW
    warmup: int | None = None  # steps of linear warm-up
    schedule: str | None = None  # constant or cosine
    hint: tuple[int, ...] | None = None  # channels of the hint encoder
    hint_init: str | None = None  # released (as in diffusers) or gaussian (keeps the variance, paper section 3.2)
    prompt_drop: float = 0.5  # share of prompts replaced by "" (paper, section 3.3), redrawn at every visit
    clip: float = 1.0  # gradient norm above which gradients are scaled down
    seed: int = 0  # of weights, order, noise, timesteps and dropping
    precision: str = "fp32"  # fp32 or bf16 (autocast)
    device: str = "auto"  # auto, cpu, cuda
    save_every: int = 100  # steps between checkpoints
    log_every: int = 10  # steps between lines of log.jsonl
    validate_every: int = 100  # steps between held-out losses
    validation_samples: int = 64  # held-out samples for them
    sample_every: int = 200  # steps between sample grids; 0: none
    samples: int = 8  # pictures in a grid
    dry_run: bool = False  # print the plan and stop

    def resolved(self) -> TrainConfig:
        """With the preset filled in and every value checked; raises CnlabError."""
        preset = self.preset or ("tabletop" if self.model == "tabletop" else "sd")
        if preset not in PRESETS:
            raise CnlabError(f"unknown preset {preset!r}; there are {', '.join(PRESETS)}")
        filled = {k: v for k, v in PRESETS[preset].items() if getattr(self, k) is None}
        config = replace(self, preset=preset, **filled)
        for name in ("steps", "batch", "save_every", "log_every", "validate_every", "validation_samples"):
            if getattr(config, name) < 1:
                raise CnlabError(f"{name.replace('_', '-')} must be at least 1")
        if not 0 <= config.prompt_drop <= 1:
            raise CnlabError(f"prompt-drop {config.prompt_drop} must lie in [0, 1]")
        if config.schedule not in ("constant", "cosine"):
            raise CnlabError(f"schedule {config.schedule!r} must be constant or cosine")
        if config.hint_init not in ("released", "gaussian"):
            raise CnlabError(f"hint-init {config.hint_init!r} must be released or gaussian")
        if config.precision not in ("fp32", "bf16"):
            raise CnlabError(f"precision {config.precision!r} must be fp32 or bf16")
        if not config.dataset.is_dir():
            raise CnlabError(f"dataset {config.dataset} does not exist; run make dataset first")
        return config

    @property
    def subset_size(self) -> int | None:
        """Number of training samples, None for all."""
        return parse_size(self.subset) if self.subset else None

    @property
    def folder(self) -> Path:
        """Where the run goes."""
        subset = f"-n{self.subset}" if self.subset else ""
        model = self.model.rstrip("/").rsplit("/", 1)[-1]
        return self.out / (self.name or f"{self.dataset.name}-{model}{subset}-{self.steps}steps-s{self.seed}")

    def identity(self, dataset_fingerprint: str, model_fingerprint: str) -> dict[str, Any]:
        """Everything that decides the run's result, and nothing else."""
        chosen = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in OPERATIONAL}
        return {**chosen, "model": model_fingerprint, "dataset": dataset_fingerprint}

    def fingerprint(self, dataset_fingerprint: str, model_fingerprint: str) -> str:
        """sha256 of `identity`."""
        return fingerprint(self.identity(dataset_fingerprint, model_fingerprint))

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, for config.json."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}
