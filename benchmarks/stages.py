"""Around a training step on a device: precisions, memory against the plan, encoding, painting, saving, ranks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.clock import Reading, steady
from benchmarks.commands import NEVER, run
from benchmarks.device import GIB, Bench, Case, memory
from benchmarks.flops import wait
from benchmarks.record import spread
from pipeline.contract.pictures import decode_image
from trainer.config import Engine, Precision
from trainer.data.encode import encode_images, on_device
from trainer.memory import architecture_of, plan
from trainer.setup import Models, build_models, set_speed
from trainer.watch.samples import Sampler

REPEATS = 3
CAPTIONS = 32  # encoded together, as a run does


def timed(bench: Bench, work: Callable[[], object]) -> list[float]:
    """Seconds of each repeat of ``work`` after one to warm up, with the device waited for."""
    seconds = []
    for _ in range(1 + REPEATS):
        wait(bench.device)
        began = time.perf_counter()
        work()
        wait(bench.device)
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


def precisions(bench: Bench) -> None:
    """Images/s of a training step in every precision."""
    names: tuple[Precision, ...] = ("bf16", "fp16", "tf32", "fp32")
    for precision in names:
        case = Case(bench.scope.middle, precision=precision)
        bench.row(f"SD 1.5 at 512 px: {case}", bench.described(bench.ours(case), case))


def against_plan(bench: Bench) -> None:
    """The peak that PyTorch allocated while training beside what `trainer.memory` plans, at three settings."""
    architecture = architecture_of(str(bench.model))
    plain: tuple[Engine, ...] = ("channels_last",)
    small, middle = bench.scope.batches[0], bench.scope.middle
    for case in (Case(small), Case(middle), Case(middle, engine=(*plain, "checkpointing"))):
        planned = plan(architecture, bench.training(case), bench.scope.shape.size).peak(case.batch)
        reading = bench.ours(case)
        value = f"planned {planned / GIB:.3g} GiB"
        if "allocated" in reading:
            value += f", allocated over planned {reading['allocated'] / planned:.3f}"
        bench.row(f"memory of training, {case}", bench.excuse(reading) or value + memory(reading))


def encode(bench: Bench) -> None:
    """Latents and captions a second, as a run encodes them before its first step."""
    prior = bench.prior
    table = bench.triplets.table("eval", ["image", "text"], bench.scope.pictures).to_pylist()
    images = np.stack([decode_image(row["image"]["bytes"]) for row in table])
    with on_device(prior.vae, bench.device):
        seconds = timed(bench, lambda: encode_images(prior, images))
    bench.row("encoding latents, fp32, 512 px: images/s", spread([len(images) / s for s in seconds]))
    ids = prior.tokenize([row["text"] for row in table] * (CAPTIONS // len(table) + 1))[:CAPTIONS]
    for encoder in prior.text_encoders:
        encoder.to(bench.device, torch.float32)  # a training before this may have left them in half precision
    seconds = timed(bench, lambda: prior.encode_text(ids.to(bench.device)))
    bench.row("encoding captions, fp32: captions/s", spread([len(ids) / s for s in seconds]))


def paint(bench: Bench) -> None:
    """Seconds of the pictures of one validation, decoded, in the precision that a run trains in."""
    with Built(bench) as models:
        watch = bench.training(Case(1)).watch
        sampler = Sampler(bench.triplets, bench.prior, watch, models.half)
        seconds = timed(bench, lambda: sampler.paint(models.control))
        what = f"painting {len(sampler.texts)} pictures of a validation, {watch.sampling_steps} steps with guidance, s"
        bench.row(what, spread(seconds))


def save(bench: Bench) -> None:
    """Seconds and size of a checkpoint."""
    with Built(bench) as models:
        trained, folder, step = models.trained, bench.root / "saved", iter(range(1 + REPEATS))
        for parameter in trained.params:
            parameter.grad = torch.zeros_like(parameter)
        trained.optimizer.step()
        seconds = timed(bench, lambda: trained.save(folder, next(step), count=1))
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        bench.row(f"saving a checkpoint of {size / 1e9:.3g} GB, s", spread(seconds))


class Built:
    """A ControlNet on the bench's prior, while it is entered."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def __enter__(self) -> Models:
        bench, training = self.bench, self.bench.training(Case(1))
        bench.reset()
        set_speed(training.precision, bench.device)
        return build_models(training, bench.prior, bench.device)

    def __exit__(self, *_: object) -> None:
        self.bench.reset()


def ranks(bench: Bench) -> None:
    """Two processes over one, each with the same number of images a step, as whole runs of ``cnlab-train``."""
    if not bench.dry and torch.cuda.device_count() < 2:
        bench.row("two processes over one", "skipped: there is one GPU")
        return
    with bench.elsewhere():
        rates = {count: _run(bench, count) for count in (1, 2)}
    single, double = (count * bench.scope.middle / statistics.median(steady(r)) for count, r in rates.items())
    bench.row(
        f"two processes over one, {bench.scope.middle} images each: images/s",
        f"{double / single:.3g} ({double:.3g})",
    )


def _run(bench: Bench, processes: int) -> Reading:
    training, out = bench.training(Case(bench.scope.middle)), bench.root / f"ranks-{processes}"
    out.mkdir()
    options = {
        "dataset": bench.triplets.folder, "model": bench.model, "out": out, "name": "run", "preset": "sd",
        "batch": processes * training.batch, "steps": training.steps, "precision": training.precision,
        "validate-every": NEVER, "save-every": NEVER, "device": bench.device.type, "accumulate": 1,
        "watch.loss-samples": 1, "watch.fidelity-samples": 0,
    }  # fmt: skip
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    channels = ["--hint.channels", *(str(c) for c in training.hint.channels)]
    command = ["-m", "trainer.cli", "run", *words, *channels]
    return run(command, out / "clock.json", bench.environment, processes)
