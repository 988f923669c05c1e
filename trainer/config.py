"""What a training run can be told; values left open come from the preset of the prior's family."""

from __future__ import annotations

import ast
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from pipeline.contract.errors import CnlabError
from pipeline.contract.identity import fingerprint
from pipeline.contract.sizes import parse_size

Variant = Literal["controlnet", "gaussian", "lite", "mlp", "only_mid"]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]
Engine = Literal["channels_last", "compile", "checkpointing", "text_cache"]

#: One row a family of priors: the options left open, and the finer settings that `--recipe NAME VALUE` overrides.
#: `tabletop` is measured (docs/log.md); `sd` is the paper's: AdamW at 1e-5, batch 4, no EMA, hint encoder
#: (16, 32, 96, 256) as in the released code (ControlNet, cldm.py). A run has 20 validations or more, which the verdict
#: on convergence wants (docs/convergence.md).
PRESETS: dict[str, dict[str, Any]] = {
    "tabletop": {
        "steps": 400, "batch": 16, "lr": 1e-3, "warmup": 20, "schedule": "cosine", "weight_decay": 1e-2, "clip": 1.0,
        "validate_every": 20, "hint": (8, 16, 32, 64), "hint_init": "gaussian", "ema": 0.0, "min_snr": 0.0,
        "loss_samples": 32, "fidelity_samples": 12, "sampling_steps": 8, "guidance": 3.0, "grid": 8, "log_every": 10,
    },
    "sd": {
        "steps": 10_000, "batch": 4, "lr": 1e-5, "warmup": 0, "schedule": "constant", "weight_decay": 1e-2, "clip": 1.0,
        "validate_every": 250, "hint": (16, 32, 96, 256), "hint_init": "released", "ema": 0.0, "min_snr": 0.0,
        "loss_samples": 64, "fidelity_samples": 16, "sampling_steps": 20, "guidance": 7.5, "grid": 8, "log_every": 10,
    },
}  # fmt: skip
#: Share of prompts replaced by "". The paper drops half (section 3.3); its author advises 0 to 10 % for sketches, whose
#: maps say too little to be read without words (ControlNet issue 93).
PROMPT_DROP = {"scribble": 0.1}
PAPER_DROP = 0.5
UNLOCKED = 0.2  # of the rate, when the prior's decoder is trained too: 2e-6 for 1e-5 (ControlNet, docs/train.md)
#: Options that say how a run is carried out or watched, not what it computes.
OPERATIONAL = ("dataset", "out", "name", "save_every", "device", "dry_run")


@dataclass(frozen=True)
class Recipe:
    """Finer settings of a preset, resolved."""

    warmup: int  # steps of linear warm-up
    schedule: str  # constant or cosine (to a twentieth)
    weight_decay: float  # of AdamW
    clip: float  # gradient norm above which gradients are scaled down
    hint: tuple[int, ...]  # channels of the hint encoder
    hint_init: str  # released (as in diffusers) or gaussian (keeps the variance, see trainer/nets/control.py)
    ema: float  # decay of an exponential moving average of the weights; 0: none, as in the paper
    min_snr: float  # gamma of min-SNR weighting (Hang et al., 2023); 0: none, as in the paper
    loss_samples: int  # held-out samples for losses
    fidelity_samples: int  # held-out samples that are drawn and measured against their maps; 0: none
    sampling_steps: int  # denoising steps of those pictures (UniPC)
    guidance: float  # their scale of classifier-free guidance
    grid: int  # pictures of a sample grid, at most fidelity_samples
    log_every: int  # steps between lines of log.jsonl

    def __post_init__(self) -> None:
        """Refuse what cannot work, in one line."""
        if self.schedule not in ("constant", "cosine"):
            raise CnlabError(f"recipe schedule {self.schedule!r} must be constant or cosine")
        if self.hint_init not in ("released", "gaussian"):
            raise CnlabError(f"recipe hint_init {self.hint_init!r} must be released or gaussian")
        if not 0 <= self.ema < 1:
            raise CnlabError(f"recipe ema {self.ema} must lie in [0, 1); 0 turns it off")
        if self.loss_samples < 1 or self.log_every < 1 or self.sampling_steps < 1:
            raise CnlabError("recipe loss_samples, log_every and sampling_steps must be at least 1")
        if self.fidelity_samples == 1:
            raise CnlabError("recipe fidelity_samples must be 0 or at least 2: each is scored on another's map too")
        if min(self.warmup, self.clip, self.min_snr, self.fidelity_samples, self.grid) < 0:
            raise CnlabError("recipe warmup, clip, min_snr, fidelity_samples and grid must not be negative")


@dataclass(frozen=True)
class TrainConfig:
    """Fine-tune a ControlNet on the first SUBSET samples of a dataset."""

    dataset: Path = Path("data/tabletop-canny-2k-s1")  # a finished dataset folder
    model: str = "tabletop"  # the prior: tabletop, a local diffusers folder, or a hub name (SD 1.x, 2.x, SDXL)
    name: str = ""  # folder below out; empty: made from the options
    out: Path = Path("runs")
    subset: str = ""  # training samples, the first n by rank; accepts 1k; empty: all
    preset: str = ""  # tabletop or sd; empty: tabletop for model=tabletop, else sd
    variant: Variant = "controlnet"  # the paper's, or an ablation (paper, figure 8, and ControlNet discussion 188)
    unlock_decoder: bool = False  # train the prior's decoder too ("sd_locked off"), at a fifth of the rate
    init: str = ""  # start from the ControlNet in this folder or hub name (see also cnlab-train transfer)
    steps: int | None = None  # optimizer steps
    batch: int | None = None  # images an optimizer step, over all devices and micro-batches
    accumulate: int = 1  # micro-batches a step is split into; does not change what it computes
    lr: float | None = None  # peak learning rate of AdamW
    prompt_drop: float | None = None  # share of prompts replaced by "", redrawn at every visit; open: by condition
    flip: bool = False  # mirror half of the pairs, redrawn at every visit; refused where a map tells left from right
    seed: int = 0  # of weights, order, noise, timesteps, dropping and flips
    precision: Precision = "fp32"  # of the matrix products; weights and optimizer stay in fp32
    engine: tuple[Engine, ...] = ("channels_last",)  # how it is computed
    recipe: dict[str, str] = field(
        default_factory=dict
    )  # finer settings over the preset's, NAME VALUE ...; --dry-run lists them
    validate_every: int | None = None  # steps between held-out losses, fidelity and sample grids
    early_stop: int = 0  # stop this many steps after convergence was found; 0: train all steps
    save_every: int = 100  # steps between checkpoints
    device: str = "auto"  # auto, cpu, cuda
    dry_run: bool = False  # print the plan and stop

    def resolved(self, condition: str = "") -> TrainConfig:
        """With the preset filled in (``condition`` decides the prompt dropping) and every value checked."""
        preset = self.preset or ("tabletop" if self.model == "tabletop" else "sd")
        if preset not in PRESETS:
            raise CnlabError(f"unknown preset {preset!r}; there are {', '.join(PRESETS)}")
        row = PRESETS[preset]
        filled = {k: row[k] for k in ("steps", "batch", "lr", "validate_every") if getattr(self, k) is None}
        if "lr" in filled and self.unlock_decoder:
            filled["lr"] *= UNLOCKED
        if self.prompt_drop is None:
            filled["prompt_drop"] = PROMPT_DROP.get(condition, PAPER_DROP)
        config = replace(self, preset=preset, **filled)
        config.check()
        return config

    def check(self) -> None:
        """Refuse what cannot work; raises CnlabError."""
        for name in ("steps", "batch", "accumulate", "save_every", "validate_every"):
            if getattr(self, name) < 1:
                raise CnlabError(f"--{name.replace('_', '-')} must be at least 1")
        if self.batch and self.batch % self.accumulate:
            raise CnlabError(f"--batch {self.batch} cannot be split into {self.accumulate} equal micro-batches")
        if self.early_stop < 0:
            raise CnlabError("--early-stop must not be negative")
        if self.prompt_drop is not None and not 0 <= self.prompt_drop <= 1:
            raise CnlabError(f"--prompt-drop {self.prompt_drop} must lie in [0, 1]")
        if self.init and self.variant in ("lite", "mlp"):
            raise CnlabError(f"--init starts a copy of the encoder; a {self.variant} net has none")
        if not self.dataset.is_dir():
            raise CnlabError(f"dataset {self.dataset} does not exist; run make dataset first")
        _ = self.fine

    @property
    def fine(self) -> Recipe:
        """The preset's finer settings with those of ``recipe`` over them; raises CnlabError for unknown names."""
        names = {f.name for f in fields(Recipe)}
        row = {k: v for k, v in PRESETS[self.preset].items() if k in names}
        for name, text in self.recipe.items():
            if name not in names:
                raise CnlabError(f"unknown recipe setting {name!r}; there are {', '.join(sorted(names))}")
            row[name] = _parse(name, text, row[name])
        return Recipe(**row)

    @property
    def subset_size(self) -> int | None:
        """Number of training samples, None for all."""
        return parse_size(self.subset) if self.subset else None

    @property
    def folder(self) -> Path:
        """Where the run goes."""
        model = self.model.rstrip("/").rsplit("/", 1)[-1]
        parts = [
            self.dataset.name,
            model,
            *([self.variant] if self.variant != "controlnet" else []),
            *(["unlocked"] if self.unlock_decoder else []),
            *([f"n{self.subset}"] if self.subset else []),
            f"{self.steps}steps",
            f"s{self.seed}",
        ]
        return self.out / (self.name or "-".join(parts))

    def identity(self, dataset: str, model: str, init: str = "") -> dict[str, Any]:
        """Everything that decides the run's result; the arguments are fingerprints of what it reads."""
        chosen = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in (*OPERATIONAL, "recipe")}
        recipe = {k: v for k, v in asdict(self.fine).items() if k != "log_every"}
        return {**chosen, "recipe": recipe, "model": model, "dataset": dataset, "init": init}

    def fingerprint(self, dataset: str, model: str, init: str = "") -> str:
        """sha256 of `identity`."""
        return fingerprint(self.identity(dataset, model, init))

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, for config.json; ``recipe`` holds every finer setting, not only those that were given."""
        plain = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}
        return {**plain, "recipe": asdict(self.fine)}


def _parse(name: str, text: str, like: Any) -> Any:
    """``text`` as a value of the type of ``like``; raises CnlabError."""
    if isinstance(like, str):
        return text
    try:
        value = ast.literal_eval(text)
        if isinstance(like, tuple):
            return tuple(int(v) for v in value)
        if isinstance(like, int) and value != int(value):
            raise ValueError(text)
        return type(like)(value)
    except (ValueError, SyntaxError, TypeError) as error:
        raise CnlabError(f"recipe {name} {text!r} is not like {like!r}") from error
