"""Options of a training run, and what they resolve to: values left open come from the preset of the model's family."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args

from tyro import conf

from pipeline.contract.errors import CnlabError
from pipeline.contract.identity import fingerprint
from pipeline.contract.names import check_name, last_part, plain_name
from pipeline.contract.options import check_finite, check_least
from pipeline.contract.sizes import format_size, parse_size
from trainer.nets.base import PLAIN, BaseOptions

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Group = TypeVar("Group", bound=DataclassInstance)

Variant = Literal["controlnet", "gaussian", "lite", "mlp", "only_mid", "vae", "lora"]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]
PrecisionOption = Literal["auto", "fp32", "tf32", "bf16", "fp16"]
Engine = Literal["channels_last", "compile", "checkpointing", "text_cache"]
Schedule = Literal["constant", "cosine"]
HintInit = Literal["released", "gaussian"]

#: Of `Training.identity`; raised when a run of an older commit can no longer be continued bit for bit.
#: 2: another sample's map in held-out losses by `pipeline.fidelity.other_samples`; latents encoded four at a time.
IDENTITY = 2
#: Share of prompts replaced by "". The paper drops half (section 3.3); its author advises 0 to 10 % for sketches, whose
#: maps say too little to be read without words (ControlNet issue 93).
PROMPT_DROP = {"scribble": 0.1}
PAPER_DROP = 0.5
UNLOCKED = 0.2  # of the rate, when the prior's decoder is trained too: 2e-6 for 1e-5 (ControlNet, docs/train.md)
#: Options that decide the result; with the groups ``optimizer`` and ``hint``, part of ``watch``, and what is read.
DECIDING = (
    "subset", "order_seed", "variant", "unlock_decoder", "steps", "batch", "lr", "prompt_drop", "flip", "seed",
    "precision",
)  # fmt: skip
WATCH_DECIDING = ("loss_samples", "fidelity_samples", "sampling_steps", "guidance")
WATCH_LEAST = {"loss_samples": 1, "log_every": 1, "sampling_steps": 1, "fidelity_samples": 0, "grid": 0,
               "guidance": 0, "early_stop": 0}  # fmt: skip
#: Options that may change between two resumes of a run; the change is recorded in its config.json.
OPERATIONAL = ("accumulate", "engine", "validate_every", "save_every", "device", "save")


@dataclass(frozen=True)
class Optimizer:
    """AdamW, its schedule and its loss, resolved."""

    warmup: int
    schedule: Schedule
    weight_decay: float
    clip: float
    ema: float
    min_snr: float
    eight_bit: bool = False


@dataclass(frozen=True)
class Hint:
    """The hint encoder, resolved."""

    channels: tuple[int, ...]
    init: HintInit


@dataclass(frozen=True)
class Watch:
    """What is measured while training, resolved."""

    loss_samples: int
    fidelity_samples: int
    sampling_steps: int
    guidance: float
    grid: int
    log_every: int
    early_stop: int = 0


@dataclass(frozen=True)
class Save:
    """Checkpoints besides those of ``--save-every``, and how many stay."""

    minutes: float = 0.0  # also when so many minutes have passed since the last one; 0: by steps alone
    keep: int = 2  # newest checkpoints that stay


@dataclass(frozen=True)
class DataOptions:
    """How samples are read."""

    flip_safe: Annotated[
        tuple[str, ...],
        conf.arg(prefix_name=False, help="conditions of maps brought along that may be mirrored with their images"),
    ] = ()
    captions: Annotated[
        str,
        conf.arg(
            prefix_name=False,
            help="of the training samples: first (the column text), random (of all in the column captions, redrawn at "
            "every visit), or those of one source by its name there, text where it has none",
        ),
    ] = "first"


@dataclass(frozen=True)
class OptimizerOptions:
    """Finer settings of the optimizer; open: the preset's."""

    warmup: int | None = None  # steps of linear warm-up
    schedule: Schedule | None = None  # cosine: to a twentieth of the rate; such a run cannot be extended
    weight_decay: float | None = None  # of AdamW
    clip: float | None = None  # gradient norm above which gradients are scaled down; 0: never
    ema: float | None = None  # decay of an exponential moving average of the weights; 0: none, as in the paper
    min_snr: float | None = None  # gamma of min-SNR weighting (Hang et al., 2023); 0: none, as in the paper
    eight_bit: bool | None = None  # optimizer states in 8 bits (bitsandbytes, CUDA): a quarter of their memory


@dataclass(frozen=True)
class HintOptions:
    """Settings of the hint encoder; open: the preset's."""

    channels: tuple[int, ...] | None = None  # of its layers
    init: HintInit | None = None  # released (as in diffusers) or gaussian (keeps the variance of the signal)


@dataclass(frozen=True)
class WatchOptions:
    """What is measured while training; open: the preset's."""

    loss_samples: int | None = None  # held-out samples for losses
    fidelity_samples: int | None = None  # held-out samples painted and measured against their maps; 0: none
    sampling_steps: int | None = None  # denoising steps of those pictures (UniPC)
    guidance: float | None = None  # their scale of classifier-free guidance
    grid: int | None = None  # pictures of a sample grid, at most fidelity_samples
    log_every: int | None = None  # steps between lines of log.jsonl
    early_stop: int | None = None  # stop this many steps after convergence was detected; 0: train all steps


@dataclass(frozen=True)
class Preset:
    """What is left open for one family of models."""

    steps: int
    batch: int
    lr: float
    validate_every: int
    save_every: int
    lora_rank: int
    optimizer: Optimizer
    hint: Hint
    watch: Watch


#: `tabletop` is measured (docs/log.md); `sd` is the paper's: AdamW at 1e-5, batch 4, no EMA, hint encoder
#: (16, 32, 96, 256) as in the released code (ControlNet, cldm.py). A run has 20 validations or more, which the verdict
#: on convergence wants (docs/convergence.md); `sd` spends less than a twentieth of its operations on them.
PRESETS = {
    "tabletop": Preset(
        steps=400, batch=16, lr=1e-3, validate_every=20, save_every=100, lora_rank=16,
        optimizer=Optimizer(warmup=20, schedule="cosine", weight_decay=1e-2, clip=1.0, ema=0.0, min_snr=0.0),
        hint=Hint((8, 16, 32, 64), "gaussian"),
        watch=Watch(loss_samples=32, fidelity_samples=12, sampling_steps=8, guidance=3.0, grid=8, log_every=10),
    ),
    "sd": Preset(
        steps=10_000, batch=4, lr=1e-5, validate_every=500, save_every=500, lora_rank=128,
        optimizer=Optimizer(warmup=0, schedule="constant", weight_decay=1e-2, clip=1.0, ema=0.0, min_snr=0.0),
        hint=Hint((16, 32, 96, 256), "released"),
        watch=Watch(loss_samples=24, fidelity_samples=8, sampling_steps=8, guidance=7.5, grid=8, log_every=10),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class TrainConfig:
    """Fine-tune a ControlNet on the first SUBSET samples of a dataset."""

    dataset: Path = Path("data/tabletop-canny-2k-s1")  # a finished dataset folder
    model: str = "tabletop"  # the prior (SD 1.x, 2.x, SDXL): tabletop, a diffusers folder, one file, or a hub name
    name: str = ""  # folder below out; empty: made from the options
    out: Path = Path("runs")
    subset: str = ""  # training samples, the first n of the order; accepts 1k; empty: all
    order_seed: int = (
        0  # 0: the order is the dataset's rank; S: a hash order of its own, so that seeds have own subsets
    )
    preset: str = ""  # tabletop or sd; empty: tabletop for model=tabletop, else sd
    variant: Variant = "controlnet"  # the paper's, an ablation (paper, figure 8), or vae and lora (CtrLoRA)
    lora_rank: int | None = None  # of the updates that --variant lora trains
    unlock_decoder: bool = False  # train the prior's decoder too ("sd_locked off"), at a fifth of the rate
    init: str = ""  # start from the ControlNet in this folder or hub name (see also cnlab-train transfer)
    extend: Path | None = None  # runs/ID: its options, with more --steps; a constant schedule alone can be extended
    steps: int | None = None  # optimizer steps
    batch: int | None = None  # images an optimizer step, over all devices and micro-batches
    accumulate: int | None = None  # micro-batches a step is split into; open: as few as memory allows (on a CPU 1)
    lr: float | None = None  # peak learning rate of AdamW
    prompt_drop: float | None = None  # share of prompts replaced by "", redrawn at every visit; open: by condition
    flip: bool = False  # mirror half of the pairs, redrawn at every visit; refused where a map tells left from right
    seed: int = 0  # of weights, order, noise, timesteps, dropping and flips
    precision: PrecisionOption = "fp32"  # of matrix products; auto: bf16 where the device has it; weights stay fp32
    engine: tuple[Engine, ...] = ("channels_last",)  # how it is computed
    base: Annotated[BaseOptions, conf.arg(name="")] = field(default_factory=BaseOptions)
    data: DataOptions = field(default_factory=DataOptions)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    hint: HintOptions = field(default_factory=HintOptions)
    watch: WatchOptions = field(default_factory=WatchOptions)
    save: Save = field(default_factory=Save)
    validate_every: int | None = None  # steps between held-out losses, fidelity and sample grids
    save_every: int | None = None  # steps between checkpoints
    device: str = "auto"  # auto, cpu, cuda
    dry_run: bool = False  # print the plan and stop

    def resolved(self, condition: str = "") -> Training:
        """With the preset filled in (``condition`` decides the prompt dropping) and every value checked."""
        preset = self.preset or ("tabletop" if self.model == "tabletop" else "sd")
        if preset not in PRESETS:
            raise CnlabError(f"unknown preset {preset!r}; there are {', '.join(PRESETS)}")
        if self.lora_rank is not None and self.variant != "lora":
            raise CnlabError(f"--lora-rank is of --variant lora; leave it out with --variant {self.variant}")
        row = PRESETS[preset]
        rate = row.lr * (UNLOCKED if self.unlock_decoder else 1)
        options = {f.name: getattr(self, f.name) for f in fields(Training) if hasattr(self, f.name)}
        options |= {f.name: getattr(row, f.name) for f in fields(row) if options.get(f.name, 0) is None}
        options |= {
            "subset": parse_size(self.subset) if self.subset else None,
            "accumulate": 1 if self.accumulate is None else self.accumulate,
            "lr": rate if self.lr is None else self.lr,
            "prompt_drop": PROMPT_DROP.get(condition, PAPER_DROP) if self.prompt_drop is None else self.prompt_drop,
            "precision": pick_precision(self.device) if self.precision == "auto" else self.precision,
            "captions": self.data.captions,
            **{name: _over(getattr(self, name), getattr(row, name)) for name in ("optimizer", "hint", "watch")},
        }
        training = Training(**options)
        training.check()
        return training


@dataclass(frozen=True)
class Training:
    """A training run with every value decided; fields as in `TrainConfig`."""

    dataset: Path
    model: str
    name: str
    out: Path
    subset: int | None
    order_seed: int
    variant: Variant
    unlock_decoder: bool
    init: str
    steps: int
    batch: int
    accumulate: int
    lr: float
    prompt_drop: float
    flip: bool
    seed: int
    precision: Precision
    engine: tuple[Engine, ...]
    optimizer: Optimizer
    hint: Hint
    watch: Watch
    save: Save
    validate_every: int
    save_every: int
    device: str
    lora_rank: int = 16
    base: BaseOptions = PLAIN
    captions: str = "first"

    def check(self) -> None:
        """Refuse what cannot work; raises CnlabError with one line."""
        check_finite(self)
        least = dict.fromkeys(("lora_rank", "steps", "batch", "accumulate", "save_every", "validate_every"), 1)
        check_least(self, "--", {**least, "seed": 0, "order_seed": 0})
        check_least(self.watch, "--watch.", WATCH_LEAST)
        check_least(self.save, "--save.", {"minutes": 0, "keep": 1})
        check_least(self.optimizer, "--optimizer.", dict.fromkeys(("warmup", "weight_decay", "clip", "min_snr"), 0))
        if self.lr <= 0:
            raise CnlabError(f"--lr {self.lr} must be above 0")
        if self.batch % self.accumulate:
            raise CnlabError(f"--batch {self.batch} cannot be split into {self.accumulate} equal micro-batches")
        if not 0 <= self.prompt_drop <= 1:
            raise CnlabError(f"--prompt-drop {self.prompt_drop} must lie in [0, 1]")
        if self.init and self.variant in ("lite", "mlp"):
            raise CnlabError(f"--init starts a copy of the encoder; a {self.variant} net has none")
        if self.captions == "random" and "text_cache" in self.engine:
            raise CnlabError("--engine text_cache holds one caption a sample; leave it out with --captions random")
        check_name(self.name)
        if not self.dataset.is_dir():
            raise CnlabError(f"dataset {self.dataset} does not exist; run make dataset first")
        _check_groups(self)

    @property
    def folder(self) -> Path:
        """Where the run goes."""
        parts = [
            plain_name(self.dataset.resolve().name),
            plain_name(last_part(self.model)),
            *(plain_name(Path(value).stem) for value in self.base.chosen.values()),
            *([self.captions] if self.captions != "first" else []),
            *([self.variant] if self.variant != "controlnet" else []),
            *(["unlocked"] if self.unlock_decoder else []),
            *([f"n{format_size(self.subset)}"] if self.subset else []),
            *([f"o{self.order_seed}"] if self.order_seed else []),
            f"{self.steps}steps",
            f"s{self.seed}",
        ]
        return self.out / (self.name or "-".join(parts))

    def identity(self, dataset: str, model: str, init: str = "") -> dict[str, Any]:
        """Everything that decides the run's result; the arguments are fingerprints of what it reads."""
        return {
            "version": IDENTITY,
            **{name: getattr(self, name) for name in DECIDING},
            "optimizer": asdict(self.optimizer),
            "hint": asdict(self.hint),
            "watch": {name: getattr(self.watch, name) for name in WATCH_DECIDING},
            "model": model,
            "dataset": dataset,
            "init": init,
            **self._further(),
        }

    def _further(self) -> dict[str, Any]:
        """Of the identity: options that decide only where they are in use, so that other runs are as they were."""
        rank = {"lora_rank": self.lora_rank} if self.variant == "lora" else {}
        return rank | ({"captions": self.captions} if self.captions != "first" else {})

    def fingerprint(self, dataset: str, model: str, init: str = "") -> str:
        """sha256 of `identity`."""
        return fingerprint(self.identity(dataset, model, init))

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, for config.json."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}


def pick_precision(device: str) -> Precision:
    """bf16 where the device multiplies it natively (a GPU since Ampere, a CPU with avx512_bf16), else fp32.

    Elsewhere bf16 is emulated, slower than fp32.
    """
    import torch  # takes seconds

    if device != "cpu" and torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported()
    return "bf16" if native else "fp32"


def training_from(record: dict[str, Any]) -> Training:
    """The reverse of `Training.as_dict`; raises CnlabError for a record of another version."""
    groups: dict[str, type[Any]] = {"optimizer": Optimizer, "hint": Hint, "watch": Watch, "save": Save}
    groups |= {"base": BaseOptions} if "base" in record else {}  # runs before November 2026 have none
    try:
        values = {f.name: record[f.name] for f in fields(Training) if f.name in record or f.default is MISSING}
        for name, kind in groups.items():
            values[name] = kind(**values[name])
    except (KeyError, TypeError) as error:
        raise CnlabError(f"the recorded options lack or do not know {error}: the run is of another version") from error
    values["hint"] = replace(values["hint"], channels=tuple(values["hint"].channels))
    paths = {name: Path(values[name]) for name in ("dataset", "out")}
    return Training(**{**values, **paths, "engine": tuple(values["engine"])})


def _over(options: DataclassInstance, preset: Group) -> Group:
    """``preset`` with the options that are set in place of its values."""
    values = {f.name: getattr(options, f.name) for f in fields(options)}
    return replace(preset, **{name: value for name, value in values.items() if value is not None})


def _check_groups(training: Training) -> None:
    optimizer, hint = training.optimizer, training.hint
    if optimizer.schedule not in get_args(Schedule):
        raise CnlabError(f"--optimizer.schedule {optimizer.schedule!r} must be {' or '.join(get_args(Schedule))}")
    if not 0 <= optimizer.ema < 1:
        raise CnlabError(f"--optimizer.ema {optimizer.ema} must lie in [0, 1); 0 turns it off")
    if hint.init not in get_args(HintInit):
        raise CnlabError(f"--hint.init {hint.init!r} must be {' or '.join(get_args(HintInit))}")
    if min(hint.channels, default=0) < 1:
        raise CnlabError("--hint.channels must be numbers of at least 1")
    if training.watch.fidelity_samples == 1:
        raise CnlabError("--watch.fidelity-samples must be 0 or at least 2: each is scored on another's map too")
