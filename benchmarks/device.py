"""One device under measurement: ways of training, and the loop run on a random model with a clock beside it."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn

from benchmarks.clock import Clock, Reading, steady
from benchmarks.commands import theirs
from benchmarks.flops import count, denoising, known_peak
from benchmarks.random_models import SD15, TINY, Shape, make_items, meta_unet, write_model
from benchmarks.record import record, spread
from pipeline.build.run import build
from pipeline.config import DatasetConfig
from pipeline.contract.dataset import Triplets
from trainer.config import Engine, HintOptions, Precision, TrainConfig, Training, WatchOptions
from trainer.data.batches import Batches, Draw, load_batches
from trainer.loop import Batch, Hooks, predict, train
from trainer.nets.control import decoder_parameters
from trainer.nets.models import load_prior
from trainer.setup import HALF, build_models, build_optimizer, set_speed
from trainer.state.trained import Trained

Method = Literal["full fine-tune", "decoder fine-tune", "ControlNet"]
METHODS: tuple[Method, ...] = ("full fine-tune", "decoder fine-tune", "ControlNet")
GIB = 2**30


@dataclass(frozen=True)
class Case:
    """One way of training."""

    batch: int
    method: Method = "ControlNet"
    precision: Precision = "bf16"
    engine: tuple[Engine, ...] = ("channels_last",)

    def __str__(self) -> str:
        return f"{self.method}, {self.precision}, batch {self.batch}, {' + '.join(self.engine) or 'plain'}"


@dataclass(frozen=True)
class Scope:
    """How much is measured."""

    shape: Shape
    steps: int  # of each case; the first fifth is not timed
    batches: tuple[int, ...]
    middle: int  # batch of the engines
    paper: int  # batch of the table
    repeats: int  # of the comparison
    pictures: int  # encoded, painted


FULL = Scope(SD15, steps=40, batches=(4, 8, 16, 32, 64), middle=16, paper=4, repeats=2, pictures=32)
DRY = Scope(TINY, steps=4, batches=(2,), middle=2, paper=1, repeats=1, pictures=4)


class Alone(nn.Module):
    """The prior without a ControlNet, fine-tuned itself."""

    def __init__(self, unet: UNet2DConditionModel, half: torch.dtype | None) -> None:
        super().__init__()
        self.unet, self.amp = unet, half

    def forward(self, batch: Batch) -> Tensor:
        """`trainer.loop.predict` without one."""
        return predict(self.unet, None, batch, self.amp)


class Bench:
    """One device, one random model, and where the rows go."""

    def __init__(self, scope: Scope, root: Path, script: Path | None, dry: bool, minutes: float = 25) -> None:
        """Writes the model below ``root``; after ``minutes`` no further case is begun."""
        self.scope, self.root, self.script, self.dry, self.minutes = scope, root, script, dry, minutes
        self.until = time.monotonic() + 60 * minutes
        self.device = torch.device("cpu" if dry else "cuda")
        self.name = "dry run" if dry else torch.cuda.get_device_name()
        self.model = root / "model"
        write_model(self.model, scope.shape)
        self.prior = load_prior(str(self.model), self.device)
        self.prior.vae.to("cpu")  # as in a run, where it is on the device only while it works
        self.operations = {method: self._count(method) for method in METHODS}

    @property
    def late(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self.until

    @cached_property
    def triplets(self) -> Triplets:
        """Renders at the model's size, built when they are first asked for."""
        config = DatasetConfig(
            size="64", eval_size=max(self.scope.pictures, 2), image_size=self.scope.shape.size, out=self.root,
            name="set", workers=0,
        )  # fmt: skip
        build(config)
        return Triplets(config.folder)

    def row(self, what: str, value: str) -> None:
        """Record, or only print when nothing was measured."""
        if self.dry:
            print(f"dry run of a tiny model: {what}: {value}")
        else:
            record(what, value, self.name)

    def training(self, case: Case) -> Training:
        """The trainer's own settings, without a dataset on disk."""
        shape, engine = self.scope.shape, tuple(e for e in case.engine if e != "compile")  # see _train
        return TrainConfig(
            dataset=self.root, name="run", model=str(self.model), preset="sd", batch=case.batch, steps=self.scope.steps,
            precision=case.precision, engine=engine, hint=HintOptions(channels=shape.hint),
            validate_every=10**6, save_every=10**6, device=self.device.type,
            watch=WatchOptions(fidelity_samples=self.scope.pictures),
        ).resolved()  # fmt: skip

    def ours(self, case: Case) -> Reading:
        """Train; the reading says ``oom`` when the device's memory was not enough, ``late`` when the time is up."""
        if self.late:
            return {"late": True}
        self.reset()
        try:
            reading = self._train(case)
        except torch.OutOfMemoryError:
            reading = {"oom": True}
        self.reset()  # not before the handler's end: until then the traceback holds the case's tensors
        return reading

    def _train(self, case: Case) -> Reading:
        training = self.training(case)
        set_speed(training.precision, self.device)
        if case.method == "ControlNet":
            models = build_models(training, self.prior, self.device)
            denoiser, trained = models.denoiser, models.trained
        else:
            denoiser, trained = self._alone(case, training)
        if "compile" in case.engine:  # as the trainer does; the compiler of CPU code takes minutes, tracing seconds
            denoiser.compile(backend="eager" if self.dry else "inductor")
        items = make_items(self.prior, self.scope.shape, text_cache="text_cache" in case.engine)
        hooks = Hooks(log=lambda *_: None, validate=lambda _: False, save=lambda *_: None)
        draw = Draw(training.batch, training.seed, 1000, training.prompt_drop)
        batches = load_batches(Batches(items, draw), 0, training.steps, self.device.type == "cuda", self.root)
        with Clock(self.device) as clock:
            train(denoiser, self.prior, trained, batches, training, 0, hooks)
        return clock.reading()

    def _alone(self, case: Case, training: Training) -> tuple[nn.Module, Trained]:
        unet = self.prior.unet
        params = self._trainable(unet, case.method)
        memory = torch.channels_last if "channels_last" in case.engine else torch.contiguous_format
        unet.to(memory_format=memory)
        if "checkpointing" in case.engine:
            unet.enable_gradient_checkpointing()
        optimizer = build_optimizer(params, training, self.device)
        scaler = torch.amp.GradScaler(self.device.type, init_scale=1.0)
        trained = Trained(cast(ControlNetModel, None), unet, params, optimizer, scaler, None, memory)
        return Alone(unet, HALF.get(case.precision)), trained

    @staticmethod
    def _trainable(unet: UNet2DConditionModel, method: Method) -> list[nn.Parameter]:
        params = list(unet.parameters()) if method == "full fine-tune" else decoder_parameters(unet)
        for parameter in params:
            parameter.requires_grad_(True)
        return params

    def reset(self) -> None:
        """The prior as it was loaded, up to rounding, and the device's memory free of the last case."""
        self.prior.unet.float().requires_grad_(False).to(memory_format=torch.contiguous_format)
        self.prior.unet.disable_gradient_checkpointing()
        self.prior.unet.zero_grad(set_to_none=True)
        torch._dynamo.reset()
        if self.device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()

    def _count(self, method: Method) -> int:
        """Operations an image, without those of the text encoder (0.4 % of SD 1.5) and of recomputing."""
        unet, control = meta_unet(self.prior.unet), None
        unet.requires_grad_(False)
        if method == "ControlNet":
            hint = self.scope.shape.hint
            with torch.device("meta"):
                control = ControlNetModel.from_unet(unet, "rgb", hint, load_weights_from_unet=False)
        else:
            self._trainable(unet, method)
        return count(denoising(unet, control, self.scope.shape.size, self.scope.shape.tokens))

    def public(self, batch: int, options: dict[str, Any], init: Path, data: Path) -> Reading:
        """The script, at half the batch as long as memory is not enough; the reading says which ``batch`` it was."""
        assert self.script is not None
        fixed = {"resolution": self.scope.shape.size, "max_train_steps": self.scope.steps, **options}
        while True:
            options = {**fixed, "train_batch_size": batch}
            try:
                reading = theirs(
                    self.script, str(self.model), init, data, self.root / "theirs", options, self.environment
                )
                return {**reading, "batch": batch}
            except RuntimeError as error:
                if "OutOfMemoryError" not in str(error) or batch == 1:
                    raise
                batch //= 2

    @property
    def environment(self) -> dict[str, str]:
        """A dry run stays on the CPU wherever it is started."""
        return {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"} if self.dry else {}

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """Free the device for another process."""
        parts = (self.prior.unet, *self.prior.text_encoders)
        self.reset()
        for part in parts:
            part.to("cpu")
        self.reset()
        yield
        for part in parts:
            part.to(self.device)

    def excuse(self, *readings: Reading) -> str:
        """Why one of them is none; "" when all are."""
        if any("late" in reading for reading in readings):
            return f"not measured: the {self.minutes:g} minutes are over"
        return "out of memory" if any("oom" in reading for reading in readings) else ""

    def described(self, reading: Reading, case: Case) -> str:
        """Images a second, share of the peak, and memory."""
        if excuse := self.excuse(reading):
            return excuse
        rates = speeds(reading, case.batch)
        peak = known_peak(self.name, case.precision)
        share = statistics.median(rates) * self.operations[case.method] / peak
        text = f"{spread(rates)} images/s, {share:.1%} of the peak" if share == share else f"{spread(rates)} images/s"
        return f"{text}{memory(reading)}"


def speeds(reading: Reading, batch: int) -> list[float]:
    """Images a second of every steady step, waiting for data included."""
    return [batch / second for second in steady(reading)]


def memory(reading: Reading) -> str:
    """Peaks, where there is a GPU."""
    if "allocated" not in reading:
        return ""
    return f", {reading['allocated'] / GIB:.1f} GiB allocated, {reading['reserved'] / GIB:.1f} GiB reserved"
