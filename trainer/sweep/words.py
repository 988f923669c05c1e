"""A sweep in words: the plan with its forecast, and the report of what it found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pipeline.contract.sizes import format_size
from pipeline.contract.text import markdown_table
from trainer.convergence.detect import FEWEST
from trainer.sweep.cost import Costs, Forecast
from trainer.sweep.plan import PlannedRun
from trainer.sweep.stats import CONVERGENCE, FIDELITY, LOSS

ARM_TITLES = {"steps": "equal steps", "epochs": "equal epochs"}
SCALE = {FIDELITY: 1.0, LOSS: 1000.0}
NAMES = {FIDELITY: "fidelity above chance", LOSS: "loss gap x1000"}


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 20 min``, ``4 d 3 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def disk(size: float) -> str:
    """``300 kB``, ``20 MB``, ``1.4 GB``."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size / 1e3:.0f} kB"


def clock(seconds: float) -> str:
    """Date and time so many seconds from now."""
    return f"{datetime.now() + timedelta(seconds=seconds):%Y-%m-%d %H:%M}"


def forecast_text(name: str, found: Sequence[Forecast], costs: Costs, complete: int) -> str:
    """What is measured, a line a run, and the total."""
    rows = [
        [
            f.run.name, "+".join(f.run.arms), f"{f.run.steps:,}", f"{f.run.images:,}", f"{f.run.epochs:.3g}",
            duration(f.seconds) + (f" (from step {f.done:,})" if f.done else ""), disk(f.bytes),
        ]
        for f in found
    ]  # fmt: skip
    seconds = sum(f.seconds for f in found)
    ready = f", {complete} runs are complete" if complete else ""
    return "\n".join(
        [
            f"sweep {name}: {len(found)} runs to train{ready}",
            f"measured: step {costs.step:.3g} s, latents {costs.encode:.3g} s an image, validation "
            f"{costs.validation:.3g} s, checkpoint {costs.checkpoint:.3g} s ({disk(costs.checkpoint_bytes)}), "
            f"start {costs.start:.3g} s",
            markdown_table(["run", "arms", "steps", "images seen", "epochs", "time", "disk"], rows),
            *_notes([f.run for f in found]),
            f"total: {duration(seconds)}, {disk(sum(f.bytes for f in found))}; done at about {clock(seconds)}",
        ]
    )


def _notes(runs: Sequence[PlannedRun]) -> list[str]:
    """What makes a plan say less than its numbers promise."""
    notes = []
    warmup = runs[0].config.fine.warmup
    short = sorted({run.steps for run in runs if run.steps < warmup})
    if short:
        steps = ", ".join(f"{n:,}" for n in short)
        notes.append(f"note: runs of {steps} steps end within their warm-up of {warmup} steps, below the peak rate")
    unseen = sorted({run.size for run in runs if run.images < run.size})
    if unseen:
        sizes = ", ".join(map(format_size, unseen))
        notes.append(f"note: runs of size {sizes} end before they have seen their subset once; give more --steps")
    return notes


def number(value: float, low: float, high: float, metric: str = "") -> str:
    """``0.412 [0.380, 0.444]``, without the brackets where there is no interval, in the metric's unit."""
    if math.isnan(value):
        return "–"
    digits, factor = (0, 1.0) if metric == CONVERGENCE else (3, SCALE.get(metric, 1.0))
    said = f"{value * factor:.{digits}f}"
    return said if math.isnan(low) else f"{said} [{low * factor:.{digits}f}, {high * factor:.{digits}f}]"


def _step(found: Mapping[str, Any]) -> str:
    """``3 of 3: 240 [210, 270]``."""
    if not found["converged"] and found["points"] < FEWEST:
        return f"not judged, {found['points']} points"
    said = f"{found['converged']} of {found['runs']}"
    if not found["converged"]:
        return said
    return f"{said}: {number(found['value'], found['ci_low'], found['ci_high'], CONVERGENCE)}"


def size_table(summary: Mapping[str, Any]) -> str:
    """A row an arm and size."""
    metrics = [m for m in (FIDELITY, LOSS) if any(r["metric"] == m for r in summary["sizes"])]
    cells = {(r["arm"], r["subset_size"], r["metric"]): r for r in summary["sizes"]}
    rows = []
    for found in summary["convergence"]:
        arm, size = found["arm"], found["subset_size"]
        own = [cells[arm, size, m] for m in metrics]
        step = _step(found)
        numbers = [number(r["value"], r["ci_low"], r["ci_high"], r["metric"]) for r in own]
        steps, epochs = f"{own[0]['steps']:,}", f"{own[0]['epochs']:.3g}"
        rows.append([ARM_TITLES[arm], format_size(size), steps, epochs, str(own[0]["n"]), *numbers, step])
    names = [NAMES[m] + " ↑" for m in metrics]
    return markdown_table(["arm", "images", "steps", "epochs", "seeds", *names, "converged, step"], rows)


def difference_table(summary: Mapping[str, Any]) -> str:
    """A row an arm, metric and pair of neighbouring sizes."""
    rows = [
        [
            ARM_TITLES[r["arm"]], NAMES[r["metric"]], f"{format_size(r['smaller'])} → {format_size(r['larger'])}",
            number(r["value"], r["ci_low"], r["ci_high"], r["metric"]), str(r["n"]), r["verdict"],
        ]
        for r in summary["differences"]
    ]  # fmt: skip
    return markdown_table(["arm", "measure", "sizes", "difference, paired", "seeds", "verdict"], rows)


def estimate_text(found: Mapping[str, Any]) -> str:
    """One line on how many more images it takes."""
    arm = ARM_TITLES[found["arm"]]
    if found["target"] is None:
        return f"- {arm}: {found['reason']}."

    def images(value: Any) -> str:
        if value == "inf" or math.isinf(value):
            return "no bound"
        return f"{float(f'{value:.3g}'):,.0f}"  # three digits

    ceiling = f"fitted ceiling {found['ceiling']:.3f}, exponent {found['exponent']:.2f}"
    number_of = images(found["images"])
    takes = "lies above the fitted ceiling" if number_of == "no bound" else f"takes {number_of} images"
    return (
        f"- {arm}: {found['target']:.3f} {takes} [{images(found['ci_low'])}, {images(found['ci_high'])}] "
        f"({found['reason']}; {ceiling}; bootstrap over seeds). An extrapolation: it holds as far as the form does."
    )


def cost_text(summary: Mapping[str, Any]) -> str:
    """Forecast against what it took."""
    cost = summary["cost"]
    if not cost["runs"]:
        return "No run was trained in one go, so the forecast cannot be compared with what it took."
    return (
        f"{cost['runs']} runs trained in one go: forecast {duration(cost['forecast_seconds'])}, it took "
        f"{duration(cost['seconds'])} ({cost['ratio']:.2f} times). Disk: forecast {disk(cost['forecast_bytes'])} with "
        f"the latents in the dataset's cache, {disk(cost['bytes'])} in the runs' folders."
    )


def _method(summary: Mapping[str, Any]) -> str:
    what = f"Dataset {summary['dataset']}, condition {summary['condition']}, model {summary['model_name']}"
    return (
        f"{what}; every size is the first n samples by rank. {summary['seeds']} training seeds. Each mean stands with "
        "its 95% t interval over training seeds, in brackets; a difference is taken seed by seed (same initial weights "
        "and noise, same held-out samples). Fidelity above chance: of pictures to their own map less to another "
        "sample's; loss gap: held-out loss with another's map less with the true one. Final weights of each run, not "
        "the best."
    )


def report(summary: Mapping[str, Any]) -> str:
    """``report.md``."""
    failed = "".join(f"- {r['run']}: {r['reason']}\n" for r in summary["failed"])
    main = NAMES[summary["metric"]]
    return "\n\n".join(
        [
            f"# Sweep {summary['sweep']}",
            _method(summary),
            *([f"**Incomplete.** These runs failed and are left out:\n\n{failed.rstrip()}"] if failed else []),
            size_table(summary),
            "![Learning curves](curve.png)",
            "## Does more help?",
            difference_table(summary),
            f"## How many more images? ({main})",
            "\n".join(estimate_text(found) for found in summary["estimates"]),
            "## Cost",
            cost_text(summary),
            f"Made by controlnet-lab {summary['version']} ({summary['commit']}), fingerprint "
            f"{summary['fingerprint'][:12]}.\n",
        ]
    )
