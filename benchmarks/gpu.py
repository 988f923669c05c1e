"""Everything that is asked of a GPU, in one call: SD 1.5's architecture with random weights, 512 px.

    python -m benchmarks.gpu --script SCRIPT         # all parts; 25 GB of scratch space
    python -m benchmarks.gpu --parts batches table   # some of them; without --script all but compare
    python -m benchmarks.gpu --dry-run               # every path with a tiny model on the CPU; records nothing

Parts, in this order, none begun when ``--minutes`` (25) are over: `batches` images/s, share of the maker's peak and
memory over batch sizes; `memory` what was allocated beside the plan; `compare` against the public diffusers script at
its defaults and at its best flags, in turn; `precisions`; `engines` ways of computing, cached text states among them;
`encode` latents and captions; `paint` the pictures of a validation; `save` a checkpoint; `ranks` two processes over
one, where there are two GPUs; `table` {full fine-tune, decoder fine-tune, ControlNet} x {bf16, fp32} x {checkpointing},
behind the paper's "+23 % memory, +34 % time" (section 3.2, one A100 40 GB, baseline and batch unstated).

SCRIPT is `examples/controlnet/train_controlnet.py` of the GitHub repository huggingface/diffusers. Ours runs through
`trainer.loop.train`, its loading processes and all, on triplets held in memory; theirs as a whole command on the same
pictures in Parquet; `benchmarks.clock` times both.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from benchmarks import stages
from benchmarks.clock import Reading, steady
from benchmarks.device import DRY, FULL, METHODS, Bench, Case, Method, memory, speeds
from benchmarks.flops import matmul_peak
from benchmarks.random_models import write_triplets
from benchmarks.record import spread
from trainer.config import Engine, Precision
from trainer.nets.control import build_control

Part = Literal["batches", "memory", "compare", "precisions", "engines", "encode", "paint", "save", "ranks", "table"]
#: By weight: what is not begun when the time is up is left out.
PARTS: tuple[Part, ...] = (
    "batches", "memory", "compare", "precisions", "engines", "encode", "paint", "save", "ranks", "table",
)  # fmt: skip
ENGINES: tuple[tuple[Engine, ...], ...] = (
    (),
    ("channels_last",),
    ("channels_last", "text_cache"),
    ("channels_last", "checkpointing"),
    ("channels_last", "compile"),
)
FASTEST: tuple[Engine, ...] = ("channels_last", "compile")


def batches(bench: Bench) -> None:
    """Images/s, MFU and memory over batch sizes."""
    for batch in bench.scope.batches:
        case = Case(batch)
        bench.row(f"SD 1.5 at 512 px: {case}", bench.described(bench.ours(case), case))
    peak = matmul_peak(bench.device, torch.bfloat16, 256 if bench.dry else 8192)
    operations = bench.operations["ControlNet"]
    bench.row("GFLOP an image of a ControlNet step; bf16 matmul, TFLOP/s", f"{operations / 1e9:.4g}; {peak / 1e12:.3g}")


def engines(bench: Bench) -> None:
    """The same for each way of computing."""
    for engine in ENGINES:
        case = Case(bench.scope.middle, engine=engine)
        bench.row(f"SD 1.5 at 512 px: {case}", bench.described(bench.ours(case), case))


def table(bench: Bench) -> None:
    """Step time and memory of the three methods, and what ControlNet costs over the other two."""
    precisions: tuple[Precision, ...] = ("bf16", "fp32")
    ways: tuple[tuple[Engine, ...], ...] = (("channels_last",), ("channels_last", "checkpointing"))
    for precision in precisions:
        for engine in ways:
            readings: dict[Method, Reading] = {}
            for method in METHODS:
                case = Case(bench.scope.paper, method, precision, engine)
                readings[method] = bench.ours(case)
                bench.row(
                    f"SD 1.5 at 512 px: {case}", step_time(readings[method]) + bench.described(readings[method], case)
                )
            for other in METHODS[:2]:
                bench.row(f"ControlNet over {other}, {precision}, {' + '.join(engine)}, batch {bench.scope.paper}",
                          over(bench, readings["ControlNet"], readings[other]))  # fmt: skip


def step_time(reading: Reading) -> str:
    """Milliseconds a step."""
    return "" if "seconds" not in reading else f"{spread([1000 * s for s in steady(reading)])} ms a step, "


def over(bench: Bench, reading: Reading, other: Reading) -> str:
    """Time and memory of ``reading`` relative to ``other``."""
    if excuse := bench.excuse(reading, other):
        return excuse
    time = statistics.median(steady(reading)) / statistics.median(steady(other)) - 1
    text = f"time {time:+.0%}"
    if "allocated" not in reading:
        return text
    return f"{text}, memory {reading['allocated'] / other['allocated'] - 1:+.0%} (paper: +34 %, +23 %)"


def compare(bench: Bench) -> None:
    """Ours at its fastest against the public script at its defaults and at its best flags, in turn."""
    if bench.script is None:
        bench.row("comparison with the public script", "skipped: no --script")
        return
    largest = bench.scope.batches[-1]
    init = bench.root / "init"
    build_control(bench.prior.unet, bench.scope.shape.hint, 0).save_pretrained(init)
    data = write_triplets(bench.root / "triplets", bench.scope.shape, largest * bench.scope.steps)
    best = {"mixed_precision": "no" if bench.dry else "bf16", "set_grads_to_none": None, "allow_tf32": None,
            "dataloader_num_workers": 0 if bench.dry else min(8, os.cpu_count() or 1)}  # fmt: skip
    programs: dict[str, tuple[int, dict[str, Any]]] = {"defaults (fp32, batch 4)": (4, {})}
    programs |= {f"best flags from batch {b}": (b, best) for b in sorted({bench.scope.batches[0], largest})}
    readings: dict[str, list[Reading]] = {}
    for _ in range(bench.scope.repeats):
        own = largest_that_fits(bench, Case(largest, engine=FASTEST))
        if "seconds" not in own:
            bench.row("comparison with the public script", bench.excuse(own))
            break
        readings.setdefault("ours", []).append(own)
        with bench.elsewhere():
            for name, (batch, options) in programs.items():
                readings.setdefault(name, []).append(bench.public(batch, options, init, data))
    if readings:
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
        name: [statistics.median(speeds(reading, reading["batch"])) for reading in repeats]
        for name, repeats in readings.items()
    }
    for name, repeats in readings.items():
        label = "cnlab-train, bf16, " + " + ".join(FASTEST) if name == "ours" else f"diffusers' script, {name}"
        bench.row(
            f"{label}: ran at batch {repeats[0]['batch']}", f"{_median(rates[name])} images/s{memory(repeats[0])}"
        )
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
    minutes: float = 25,
) -> None:
    """Measure and record.

    Args:
        script: the public script to compare with.
        parts: what to measure.
        dry_run: a tiny model on the CPU, a few steps, nothing recorded.
        minutes: after which nothing more is begun.
    """
    if not dry_run and not torch.cuda.is_available():
        raise SystemExit("benchmarks.gpu: torch sees no GPU; --dry-run runs every path on the CPU")
    run: dict[Part, Callable[[Bench], None]] = {
        "batches": batches, "memory": stages.against_plan, "compare": compare, "precisions": stages.precisions,
        "engines": engines, "encode": stages.encode, "paint": stages.paint, "save": stages.save,
        "ranks": stages.ranks, "table": table,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(DRY if dry_run else FULL, Path(place), script, dry_run, minutes)
        for part in sorted(parts, key=PARTS.index):
            if bench.late:
                bench.row(part, bench.excuse({"late": True}))
                continue
            try:
                run[part](bench)
            except torch.OutOfMemoryError:
                bench.row(part, "out of memory")


if __name__ == "__main__":
    tyro.cli(main)
