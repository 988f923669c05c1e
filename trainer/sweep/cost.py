"""What a sweep will cost: a few real steps of this model on this device, measured before it starts."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.contract.dataset import Triplets
from trainer.data.cache import CHUNK
from trainer.data.items import ENCODE_BATCH, latent_cache, latent_moments
from trainer.loop import Hooks, train
from trainer.nets.models import load_prior, model_identity
from trainer.parallel import launched
from trainer.run import Job, Watch, build_denoiser, set_speed
from trainer.state.checkpoint import list_checkpoints, read_state
from trainer.sweep.plan import PlannedRun
from trainer.watch.recorder import Recorder

PROBE_STEPS = 12  # measured steps, the first of which is not counted: kernels are chosen and compiled in it
PROBE_SECONDS = 20.0  # spent on them at most, but for the least number
PROBE_LEAST = 4
KEPT = 2  # checkpoints a run leaves


@dataclass(frozen=True)
class Costs:
    """Seconds and bytes as measured; ``ready`` counts the images whose latents are cached by now."""

    start: float  # s a run, before and beside its steps: loading of the models and held-out samples, first step
    step: float  # s an optimizer step
    encode: float  # s an image whose latents (and text states) are not cached
    validation: float  # s a validation: held-out losses, pictures, fidelity
    checkpoint: float  # s a checkpoint
    checkpoint_bytes: int
    validation_bytes: int  # of its sample grid
    cache_bytes: int  # an image, in the dataset's cache: latents, and text states where they are cached
    ready: int  # images

    def seconds(self, run: PlannedRun, done: int = 0, encoded: int = 0) -> float:
        """Of a run that has ``done`` steps behind it and ``encoded`` images to encode."""
        left = run.steps - done
        if left <= 0:
            return self.start
        validations = _times(run.steps, run.config.validate_every) - _times(done, run.config.validate_every, False)
        saves = _times(run.steps, run.config.save_every) - _times(done, run.config.save_every, False)
        validations += done == 0  # before the first step
        work = left * self.step + encoded * self.encode + validations * self.validation + saves * self.checkpoint
        return self.start + work

    def disk(self, run: PlannedRun) -> int:
        """Bytes a finished run leaves."""
        saves = min(_times(run.steps, run.config.save_every), KEPT)
        validations = 1 + _times(run.steps, run.config.validate_every)
        return saves * self.checkpoint_bytes + validations * self.validation_bytes

    def as_dict(self) -> dict[str, Any]:
        """For ``sweep.json``."""
        return asdict(self)


@dataclass(frozen=True)
class Forecast:
    """What a run still costs."""

    run: PlannedRun
    seconds: float
    bytes: int  # at its end, with the latents it adds to the cache
    done: int  # steps behind it


def _times(steps: int, every: int | None, last: bool = True) -> int:
    """How often something is done that is due every so many steps and, with ``last``, at the end."""
    assert every is not None  # a planned run's config is resolved
    return -(-steps // every) if last else steps // every


def forecast(runs: Iterable[PlannedRun], costs: Costs) -> list[Forecast]:
    """Each run's share, in the order of training: the first to need an image's latents pays for them."""
    found, ready = [], costs.ready
    for run in runs:
        done, new = steps_done(run.config.folder), max(run.size - ready, 0)
        ready = max(ready, run.size)
        seconds, disk = costs.seconds(run, done, new), costs.disk(run) + new * costs.cache_bytes
        found.append(Forecast(run, seconds, disk, done))
    return found


def steps_done(folder: Path) -> int:
    """Steps of a run's newest checkpoint."""
    found = list_checkpoints(folder / "checkpoints")
    return int(read_state(found[-1])["step"]) if found else 0


def measure(run: PlannedRun, triplets: Triplets) -> Costs:
    """Costs of runs like ``run``, the largest: real steps, one validation and one checkpoint in a passing folder.

    Of its latents one chunk (256 images) is encoded and stays in the dataset's cache, where the sweep needs it.
    """
    run.config.out.parent.mkdir(parents=True, exist_ok=True)
    with (
        launched(run.config.device) as (ranks, device),
        TemporaryDirectory(prefix=".forecast-", dir=run.config.out.parent) as place,
    ):
        # every step is timed: a line of the log waits for the device
        recipe = {**run.config.recipe, "log_every": "1"}
        config = replace(run.config, out=Path(place), name="probe", steps=PROBE_STEPS, recipe=recipe)
        set_speed(config, device)
        began = time.perf_counter()
        prior = load_prior(config.model, device)
        job = Job(config, triplets, prior, model_identity(config.model), ranks, device)
        _ = job.trained
        loading = time.perf_counter() - began

        encode, cache_bytes, ready = _encode(job, run.size)
        items = job.items("train", min(run.size, CHUNK))
        job.items("eval", min(config.fine.loss_samples, triplets.count("eval")))  # cached: paid once, not a run
        began = time.perf_counter()
        recorder = Recorder(job.folder, 0, PROBE_STEPS, config.batch or 0)
        watch = Watch(job, recorder)
        loading += time.perf_counter() - began
        try:
            first, step = _steps(job, recorder, _limited(job.batches(items, 0)))
            validation = _timed(lambda: watch(PROBE_STEPS), device)
        finally:
            recorder.close()
        checkpoint = _timed(lambda: job.trained.save(job.folder / "checkpoints", 1), device)
        return Costs(
            start=loading + max(first - step, 0.0),
            step=step,
            encode=encode,
            validation=validation,
            checkpoint=checkpoint,
            checkpoint_bytes=_size(job.folder / "checkpoints"),
            validation_bytes=_size(job.folder / "samples"),
            cache_bytes=cache_bytes,
            ready=ready,
        )


def _encode(job: Job, wanted: int) -> tuple[float, int, int]:
    """Seconds an image, bytes an image and cached images, after one more chunk of latents was encoded."""
    sides = (False, True) if job.config.flip else (False,)
    seconds, size, ready = 0.0, 0, wanted
    for mirrored in sides:
        cache = latent_cache(job.triplets, "train", job.prior, job.model, mirrored)
        before = cache.ready
        upto = min(before + CHUNK, wanted)
        began = time.perf_counter()
        latent_moments(job.triplets, "train", upto, job.prior, job.model, mirrored)
        made = cache.ready - before
        seconds += (time.perf_counter() - began) / made if made > 0 else 0.0
        size += 2 * int(np.prod(cache.shape))
        ready = min(ready, cache.ready)
    if "text_cache" in job.config.engine:
        texts = job.triplets.table("train", ["text"], min(wanted, ENCODE_BATCH))["text"].to_pylist()
        ids = job.prior.tokenize(texts).to(job.device)
        seconds += _timed(lambda: job.prior.encode_text(ids).cpu(), job.device) / len(texts)
        size += 2 * job.prior.text_width
    return seconds, size, ready


def _steps(job: Job, recorder: Recorder, batches: Iterable[list[dict[str, Tensor]]]) -> tuple[float, float]:
    """Seconds of the first step and of each further one (mean)."""
    stamps = [time.perf_counter()]

    def log(step: int, figures: dict[str, Tensor | float]) -> None:
        recorder.log(step, {name: float(value) for name, value in figures.items()})
        stamps.append(time.perf_counter())

    hooks = Hooks(log=log, validate=lambda step: False, save=lambda step: None)
    train(build_denoiser(job), job.prior, job.trained, batches, job.config, 0, hooks)
    spent = np.diff(stamps)
    return float(spent[0]), float(spent[1:].mean())


def _limited(batches: Iterator[list[dict[str, Tensor]]]) -> Iterator[list[dict[str, Tensor]]]:
    """Batches until the time is up, at least so many."""
    yield from itertools.islice(batches, PROBE_LEAST)
    began = time.perf_counter()
    yield from itertools.takewhile(lambda _: time.perf_counter() - began < PROBE_SECONDS, batches)


def _timed(work: Any, device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _size(folder: Path) -> int:
    """Bytes of the files below a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
