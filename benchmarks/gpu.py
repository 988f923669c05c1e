"""Everything that is asked of a GPU, in one call: SD 1.5's architecture with random weights, 512 px.

    python -m benchmarks.gpu --script SCRIPT         # all parts, an hour on an H100; 25 GB of scratch space
    python -m benchmarks.gpu --parts batches table   # some of them; without --script all but compare
    python -m benchmarks.gpu --dry-run               # every path with a tiny model on the CPU; records nothing

Parts: `batches` images/s, share of the maker's peak and memory over batch sizes; `engines` the same for each way of
computing; `table` {full fine-tune, decoder fine-tune, ControlNet} x {bf16, fp32} x {checkpointing}, behind the paper's
"+23 % memory, +34 % time" (section 3.2, one A100 40 GB, baseline and batch unstated); `compare` against the public
diffusers script at its defaults and at its best flags, in turn. SCRIPT is `examples/controlnet/train_controlnet.py` of
the GitHub repository huggingface/diffusers. Ours runs through `trainer.loop.train`, its loading processes and all, on
triplets held in memory; theirs as a whole command on the same pictures in Parquet; `benchmarks.clock` times both.
"""

from __future__ import annotations

import gc
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
import tyro
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn

from benchmarks.clock import Clock, Reading, steady
from benchmarks.commands import theirs
from benchmarks.flops import count, denoising, known_peak, matmul_peak
from benchmarks.random_models import SD15, TINY, Shape, make_items, meta_unet, write_model, write_triplets
from benchmarks.record import record, spread
from trainer.config import Engine, HintOptions, Precision, TrainConfig, Training
from trainer.data.batches import Batches, Draw, load_batches
from trainer.loop import Batch, Hooks, predict, train
from trainer.nets.control import build_control, decoder_parameters
from trainer.nets.models import load_prior
from trainer.setup import HALF, build_models, build_optimizer, set_speed
from trainer.state.trained import Trained

Part = Literal["batches", "engines", "table", "compare"]
Method = Literal["full fine-tune", "decoder fine-tune", "ControlNet"]
METHODS: tuple[Method, ...] = ("full fine-tune", "decoder fine-tune", "ControlNet")
PARTS: tuple[Part, ...] = ("batches", "engines", "table", "compare")
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
class Plan:
    """How much is measured."""

    shape: Shape
    steps: int  # of each case; the first fifth is not timed
    batches: tuple[int, ...]
    middle: int  # batch of the engines
    paper: int  # batch of the table
    repeats: int  # of the comparison


FULL = Plan(SD15, steps=64, batches=(4, 8, 16, 32, 64), middle=16, paper=4, repeats=3)
DRY = Plan(TINY, steps=4, batches=(2,), middle=2, paper=1, repeats=1)
ENGINES: tuple[tuple[Engine, ...], ...] = (
    (),
    ("channels_last",),
    ("channels_last", "text_cache"),
    ("channels_last", "checkpointing"),
    ("channels_last", "compile"),
)
FASTEST: tuple[Engine, ...] = ("channels_last", "compile")


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

    def __init__(self, plan: Plan, root: Path, script: Path | None, dry: bool) -> None:
        """Writes the model below ``root``."""
        self.plan, self.root, self.script, self.dry = plan, root, script, dry
        self.device = torch.device("cpu" if dry else "cuda")
        self.name = "dry run" if dry else torch.cuda.get_device_name()
        self.model = root / "model"
        write_model(self.model, plan.shape)
        self.prior = load_prior(str(self.model), self.device)
        self.operations = {method: self._count(method) for method in METHODS}

    def row(self, what: str, value: str) -> None:
        """Record, or only print when nothing was measured."""
        if self.dry:
            print(f"dry run of a tiny model: {what}: {value}")
        else:
            record(what, value, self.name)

    def training(self, case: Case) -> Training:
        """The trainer's own settings, without a dataset on disk."""
        shape, engine = self.plan.shape, tuple(e for e in case.engine if e != "compile")  # see _train
        return TrainConfig(
            dataset=self.root, model=str(self.model), preset="sd", batch=case.batch, steps=self.plan.steps,
            precision=case.precision, engine=engine, hint=HintOptions(channels=shape.hint),
            validate_every=10**6, save_every=10**6, device=self.device.type,
        ).resolved()  # fmt: skip

    def ours(self, case: Case) -> Reading:
        """Train; the reading says ``oom`` when the device's memory was not enough."""
        self._reset()
        try:
            reading = self._train(case)
        except torch.OutOfMemoryError:
            reading = {"oom": True}
        self._reset()  # not before the handler's end: until then the traceback holds the case's tensors
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
        items = make_items(self.prior, self.plan.shape, text_cache="text_cache" in case.engine)
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

    def _reset(self) -> None:
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
            hint = self.plan.shape.hint
            with torch.device("meta"):
                control = ControlNetModel.from_unet(unet, "rgb", hint, load_weights_from_unet=False)
        else:
            self._trainable(unet, method)
        return count(denoising(unet, control, self.plan.shape.size, self.plan.shape.tokens))

    def public(self, batch: int, options: dict[str, Any], init: Path, data: Path) -> Reading:
        """The script, at half the batch as long as memory is not enough; the reading says which ``batch`` it was."""
        assert self.script is not None
        fixed = {"resolution": self.plan.shape.size, "max_train_steps": self.plan.steps, **options}
        while True:
            given = {**fixed, "train_batch_size": batch}
            try:
                reading = theirs(
                    self.script, str(self.model), init, data, self.root / "theirs", given, self.environment
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
        parts = (self.prior.unet, self.prior.vae, *self.prior.text_encoders)
        self._reset()
        for part in parts:
            part.to("cpu")
        self._reset()
        yield
        for part in parts:
            part.to(self.device)

    def told(self, reading: Reading, case: Case) -> str:
        """Images a second, share of the peak, and memory."""
        if "oom" in reading:
            return "out of memory"
        rates = speeds(reading, case.batch)
        peak = known_peak(self.name, case.precision)
        share = statistics.median(rates) * self.operations[case.method] / peak
        said = f"{spread(rates)} images/s, {share:.1%} of the peak" if share == share else f"{spread(rates)} images/s"
        return f"{said}{memory(reading)}"


def speeds(reading: Reading, batch: int) -> list[float]:
    """Images a second of every steady step, waiting for data included."""
    return [batch / second for second in steady(reading)]


def memory(reading: Reading) -> str:
    """Peaks, where there is a GPU."""
    if "allocated" not in reading:
        return ""
    return f", {reading['allocated'] / GIB:.1f} GiB allocated, {reading['reserved'] / GIB:.1f} GiB reserved"


def batches(bench: Bench) -> None:
    """Images/s, MFU and memory over batch sizes."""
    for batch in bench.plan.batches:
        case = Case(batch)
        bench.row(f"SD 1.5 at 512 px: {case}", bench.told(bench.ours(case), case))
    peak = matmul_peak(bench.device, torch.bfloat16, 256 if bench.dry else 8192)
    operations = bench.operations["ControlNet"]
    bench.row("GFLOP an image of a ControlNet step; bf16 matmul, TFLOP/s", f"{operations / 1e9:.4g}; {peak / 1e12:.3g}")


def engines(bench: Bench) -> None:
    """The same for each way of computing."""
    for engine in ENGINES:
        case = Case(bench.plan.middle, engine=engine)
        bench.row(f"SD 1.5 at 512 px: {case}", bench.told(bench.ours(case), case))


def table(bench: Bench) -> None:
    """Step time and memory of the three methods, and what ControlNet costs over the other two."""
    precisions: tuple[Precision, ...] = ("bf16", "fp32")
    ways: tuple[tuple[Engine, ...], ...] = (("channels_last",), ("channels_last", "checkpointing"))
    for precision in precisions:
        for engine in ways:
            found: dict[Method, Reading] = {}
            for method in METHODS:
                case = Case(bench.plan.paper, method, precision, engine)
                found[method] = bench.ours(case)
                bench.row(f"SD 1.5 at 512 px: {case}", step_time(found[method]) + bench.told(found[method], case))
            for other in METHODS[:2]:
                bench.row(f"ControlNet over {other}, {precision}, {' + '.join(engine)}, batch {bench.plan.paper}",
                          over(found["ControlNet"], found[other]))  # fmt: skip


def step_time(reading: Reading) -> str:
    """Milliseconds a step."""
    return "" if "oom" in reading else f"{spread([1000 * s for s in steady(reading)])} ms a step, "


def over(one: Reading, other: Reading) -> str:
    """Time and memory of ``one`` relative to ``other``."""
    if "oom" in one or "oom" in other:
        return "out of memory"
    time = statistics.median(steady(one)) / statistics.median(steady(other)) - 1
    said = f"time {time:+.0%}"
    if "allocated" not in one:
        return said
    return f"{said}, memory {one['allocated'] / other['allocated'] - 1:+.0%} (paper: +34 %, +23 %)"


def compare(bench: Bench) -> None:
    """Ours at its fastest against the public script at its defaults and at its best flags, in turn."""
    if bench.script is None:
        bench.row("comparison with the public script", "skipped: no --script")
        return
    largest = bench.plan.batches[-1]
    init = bench.root / "init"
    build_control(bench.prior.unet, bench.plan.shape.hint, 0).save_pretrained(init)
    data = write_triplets(bench.root / "triplets", bench.plan.shape, largest * bench.plan.steps)
    best = {"mixed_precision": "no" if bench.dry else "bf16", "set_grads_to_none": None, "allow_tf32": None,
            "dataloader_num_workers": 0 if bench.dry else min(8, os.cpu_count() or 1)}  # fmt: skip
    programs: dict[str, tuple[int, dict[str, Any]]] = {"defaults (fp32, batch 4)": (4, {})}
    programs |= {f"best flags from batch {b}": (b, best) for b in sorted({bench.plan.batches[0], largest})}
    readings: dict[str, list[Reading]] = {}
    for _ in range(bench.plan.repeats):
        with bench.elsewhere():
            for name, (batch, options) in programs.items():
                readings.setdefault(name, []).append(bench.public(batch, options, init, data))
        readings.setdefault("ours", []).append(largest_that_fits(bench, Case(largest, engine=FASTEST)))
    report(bench, readings)


def largest_that_fits(bench: Bench, case: Case) -> Reading:
    """At half the batch as long as memory is not enough."""
    reading = bench.ours(case)
    while "oom" in reading and case.batch > 1:
        case = replace(case, batch=case.batch // 2)
        reading = bench.ours(case)
    return {**reading, "batch": case.batch}


def report(bench: Bench, readings: dict[str, list[Reading]]) -> None:
    """Rates of each program, and ours over each of theirs."""
    rates = {
        name: [statistics.median(speeds(reading, reading["batch"])) for reading in found]
        for name, found in readings.items()
    }
    for name, found in readings.items():
        label = "cnlab-train, bf16, " + " + ".join(FASTEST) if name == "ours" else f"diffusers' script, {name}"
        bench.row(f"{label}: ran at batch {found[0]['batch']}", f"{_median(rates[name])} images/s{memory(found[0])}")
    for name in rates:
        if name != "ours":
            ratios = [a / b for a, b in zip(rates["ours"], rates[name], strict=True)]
            bench.row(f"cnlab-train over diffusers' script, {name}", _median(ratios))


def _median(values: list[float]) -> str:
    return spread(values) if len(values) > 1 else f"{values[0]:.3g}"


def main(
    script: Path | None = None,
    parts: tuple[Part, ...] = PARTS,
    dry_run: bool = False,
) -> None:
    """Measure and record.

    Args:
        script: the public script to compare with.
        parts: what to measure.
        dry_run: a tiny model on the CPU, a few steps, nothing recorded.
    """
    if not dry_run and not torch.cuda.is_available():
        raise SystemExit("benchmarks.gpu: torch sees no GPU; --dry-run runs every path on the CPU")
    run: dict[Part, Callable[[Bench], None]] = {
        "batches": batches, "engines": engines, "table": table, "compare": compare,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(DRY if dry_run else FULL, Path(place), script, dry_run)
        for part in parts:
            run[part](bench)


if __name__ == "__main__":
    tyro.cli(main)
