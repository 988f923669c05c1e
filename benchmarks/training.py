"""The trainer against the public diffusers ControlNet script, on the CPU, with the shipped tabletop prior.

    python -m benchmarks.training SCRIPT [--dataset FOLDER]
    python -m benchmarks.training SCRIPT --model sd15         # SD 1.5's size, one image a step; 16 GB of memory

SCRIPT is `examples/controlnet/train_controlnet.py` of the GitHub repository huggingface/diffusers, which is not part of
this one; the recorded rows used commit 58eb52c0803e unchanged. Both programs start from the same ControlNet, read the
same Parquet shards and take the same number of steps at the same batch and number of threads, in turn (theirs, ours,
theirs, ...), each as a whole command from cold caches; in fp32, and where the processor has avx512_bf16 in bf16 too,
and ours there once more as two processes of one thread each. The steady rate leaves out the first fifth of the
steps; both are timed by `benchmarks.clock`. Neither validates or saves between steps; otherwise each runs at its
defaults. What the two do differently in a step is the point: the script encodes images in every step, we once.

At SD 1.5's size a step takes minutes of a CPU, so there the steps themselves are compared, in CPU time of one thread,
beside what the operations of both say.
"""

from __future__ import annotations

import gc
import math
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
import tyro

from benchmarks.clock import Reading, rate, steady
from benchmarks.commands import ours, theirs
from benchmarks.device import DRY, Bench, Case
from benchmarks.flops import count, matmul_peak
from benchmarks.random_models import SD15, TINY, Shape, meta_vae, write_triplets
from benchmarks.record import record, spread
from pipeline.build.run import build
from pipeline.config import DatasetConfig
from pipeline.contract.dataset import Triplets
from trainer.config import TrainConfig, pick_precision
from trainer.loop import Hooks, train
from trainer.nets.base import model_folder, model_identity
from trainer.nets.control import build_control
from trainer.nets.models import load_prior
from trainer.parallel import Ranks
from trainer.run import Setup
from trainer.setup import build_models

BATCH, SIZE, ROWS, THREADS, LR = 16, 128, 512, 2, 1e-3
LABEL = "diffusers' script"
ENVIRONMENT = {"OMP_NUM_THREADS": str(THREADS)}


def one_step(data: Path, init: Path) -> int:
    """Operations of one step, counted in the loop itself."""
    triplets, model, cpu = Triplets(data), "tabletop", torch.device("cpu")
    options = TrainConfig(dataset=data, init=str(init), batch=BATCH, steps=1, device="cpu")
    training = options.resolved(triplets.condition)
    prior, setup = load_prior(model, cpu), Setup(training, triplets, model_identity(model), {}, Ranks(), cpu)
    batches = list(setup.batches(prior, setup.items(prior, "train", None), 0))  # cached latents are no part of a step
    models = build_models(training, prior, cpu)
    hooks = Hooks(log=lambda *_: None, validate=lambda _: False, save=lambda *_: None)
    return count(lambda: train(models.denoiser, prior, models.trained, batches, training, 0, hooks))


def main(
    script: Path,
    /,
    dataset: Path | None = None,
    repeats: int = 3,
    steps: int = 40,
    model: Literal["tabletop", "sd15", "tiny"] = "tabletop",
) -> None:
    """Compare and record.

    Args:
        script: the public script.
        dataset: a finished tabletop set of 128 px; left out, one of 512 samples is made first.
        repeats: of each program, in turn.
        steps: of each program.
        model: the shipped prior, or random weights of SD 1.5's size, or of a tiny one, which records nothing.
    """
    if model != "tabletop":
        steps_at_size(script, {"sd15": SD15, "tiny": TINY}[model], steps, repeats)
        return
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        config = DatasetConfig(size=str(ROWS), eval_size=16, image_size=SIZE, out=root, name="set")
        data = dataset or config.folder
        if dataset is None:
            build(config)
        init = root / "init"
        prior = load_prior("tabletop", torch.device("cpu"))
        build_control(prior.unet, (8, 16, 32, 64), 0, "gaussian").save_pretrained(init)
        arms = programs(script, init, data, root, steps)
        readings: dict[str, list[Reading]] = {name: [] for name in arms}
        peaks = []
        for _ in range(repeats):
            for name, program in arms.items():
                readings[name].append(program())
            peaks.append(matmul_peak(torch.device("cpu")))
        operations = one_step(data, init)
    assert all(len(r["seconds"]) == steps - 1 for repeats in readings.values() for r in repeats)
    report(readings, steps, operations, max(peaks))


def steps_at_size(script: Path, shape: Shape, steps: int, repeats: int) -> None:
    """CPU time of a step of one image, theirs over ours, in turn; and the ratio by operations.

    The first step of a program is not timed: the optimizer's states are made in it.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        scope = replace(DRY, shape=shape, steps=steps, pictures=0)
        bench = Bench(scope, Path(place), script, dry=True, minutes=math.inf)
        data, init, case = write_triplets(bench.root / "data", shape, 4), bench.root / "init", Case(1, precision="fp32")
        build_control(bench.prior.unet, shape.hint, 0).save_pretrained(init)
        encoding = count(
            lambda: meta_vae(bench.prior.vae).encode(torch.zeros(1, 3, shape.size, shape.size, device="meta"))
        )
        own, public = [], []
        for _ in range(repeats):
            own.append(statistics.median(bench.ours(case)["cpu_seconds"]))
            del bench.prior  # two programs at once would need twice the memory
            gc.collect()
            public.append(statistics.median(bench.public(1, {}, init, data)["cpu_seconds"]))
            bench.prior = load_prior(str(bench.model), bench.device)
        operations = bench.operations["ControlNet"]
    what = f"training step of one image, {shape.size} px, fp32, random weights, one thread, {steps - 1} steps"
    ratios = [a / b for a, b in zip(public, own, strict=True)]
    for name, value in {
        f"{what}: CPU time of {LABEL} over ours": _values(ratios),
        "the same by operations (autoencoder and step over step)": f"{(encoding + operations) / operations:.3g}",
        "the same, CPU-s a step: diffusers' script, ours": f"{_values(public)}, {_values(own)}",
    }.items():
        if shape is TINY:
            print(f"dry run of a tiny model: {name}: {value}")
        else:
            record(name, value)


def _values(values: list[float]) -> str:
    return spread(values) if len(values) > 1 else f"{values[0]:.3g} (one pair)"


def programs(script: Path, init: Path, data: Path, root: Path, steps: int) -> dict[str, Callable[[], Reading]]:
    """What is compared, by name: "theirs" and "ours", with ", bf16" and ", two processes" where they differ by it."""
    model = model_folder("tabletop")
    public = {"resolution": SIZE, "train_batch_size": BATCH, "max_train_steps": steps, "learning_rate": LR}
    own = {"batch": BATCH, "steps": steps, "lr": LR}
    half, single = {**own, "precision": "bf16"}, {"OMP_NUM_THREADS": "1"}
    arms: dict[str, Callable[[], Reading]] = {
        "theirs": lambda: theirs(script, model, init, data, root / "theirs", public, ENVIRONMENT),
        "ours": lambda: ours(init, data, root / "ours", own, ENVIRONMENT),
    }
    if pick_precision("cpu") != "bf16":
        return arms
    return arms | {
        "theirs, bf16": lambda: theirs(
            script, model, init, data, root / "theirs", {**public, "mixed_precision": "bf16"}, ENVIRONMENT
        ),
        "ours, bf16": lambda: ours(init, data, root / "ours", half, ENVIRONMENT),
        "ours, bf16, two processes": lambda: ours(init, data, root / "ours", half, single, THREADS),
    }


def report(readings: dict[str, list[Reading]], steps: int, operations: int, peak: float) -> None:
    """Record the rows."""
    rates = {name: [rate(reading, BATCH) for reading in repeats] for name, repeats in readings.items()}
    walls = {name: [reading["wall"] for reading in repeats] for name, repeats in readings.items()}

    def ratio(table: dict[str, list[float]], a: str, b: str) -> str:
        return spread([x / y for x, y in zip(table[a], table[b], strict=True)])

    setting = f"tabletop, batch {BATCH}, {THREADS} threads"
    for name in readings:
        program, _, way = name.partition(", ")
        label = f"{'cnlab-train run' if program == 'ours' else LABEL}, {setting}, {way or 'fp32'}"
        record(f"{label}: steady images/s", spread(rates[name]))
        record(f"{label}: whole command of {steps} steps, s", spread(walls[name]))
        for other in ("theirs", "theirs, bf16") if program == "ours" else ():
            if other in readings:
                against = f"over {LABEL} in {'bf16' if 'bf16' in other else 'fp32'}"
                record(f"{label}: steady rate {against}", ratio(rates, name, other))
                record(f"{label}: whole command from cold caches {against}", ratio(walls, other, name))
    fast = [operations / statistics.median(steady(reading)) for reading in readings["ours"]]
    record(f"training step, {setting}, fp32: GFLOP an image, GFLOP/s",
           f"{operations / BATCH / 1e9:.3g}, {spread([f / 1e9 for f in fast])}")  # fmt: skip
    record("the same as a share of the largest matmul rate of the same run", spread([f / peak for f in fast]))
    record(f"fp32 matmul of 2048 x 2048, {THREADS} threads, GFLOP/s", f"{peak / 1e9:.3g}")


if __name__ == "__main__":
    tyro.cli(main)
