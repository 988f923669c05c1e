"""Pictures of validation curves, with the verdict on each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.contract.figures import PALETTE, new_figure, save_figure
from trainer.convergence.detect import Convergence, Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WORDS = {
    "fidelity": "condition fidelity, true map minus another's",
    "loss_gap": "held-out loss, another's map minus true",
}


def draw(
    runs: Mapping[str, tuple[Curve, Convergence]],
    path: Path,
    ylabel: str | None = None,
    losses: Mapping[str, Curve] | None = None,
) -> None:
    """Curves with 95% bands, each with its step (diamond) and interval (bar), as one PNG at ``path``.

    ``losses``: the same runs' gain in held-out loss (of the true map over another's), drawn below on a logarithmic
    scale, where the growth before a sudden convergence shows; what is not positive is left out.
    """
    ratios = [3, 2] if losses else None
    figure, grid = new_figure(7.2, 6.6 if losses else 4.2, 2 if losses else 1, sharex=True, height_ratios=ratios)
    panels = [row[0] for row in grid]
    axes = panels[0]
    for i, (label, (curve, verdict)) in enumerate(runs.items()):
        colour = PALETTE[i % len(PALETTE)]
        draw_run(axes, curve, verdict, label, colour)
        if losses and label in losses:
            draw_growth(panels[1], losses[label], verdict, colour)
    names = {curve.name for curve, _ in runs.values()}
    axes.set_ylabel(ylabel or ", ".join(WORDS.get(name, name) for name in sorted(names)), fontsize=9)
    axes.axhline(0, color="#888888", linewidth=0.6, zorder=0)
    if losses:
        panels[1].set_yscale("log")
        panels[1].set_ylabel("gain in held-out loss", fontsize=9)
    panels[-1].set_xlabel("optimizer step", fontsize=9)
    for panel in panels:
        panel.xaxis.set_major_formatter("{x:,.0f}")
        panel.margins(x=0.01)
    figure.legend(loc="outside upper left", ncols=2 if len(runs) > 1 else 1, frameon=False, fontsize=8.5)
    save_figure(figure, path)


def draw_growth(axes: Axes, curve: Curve, verdict: Convergence, colour: str) -> None:
    """One run's positive values, and where it converged."""
    positive = np.where(curve.values > 0, curve.values, np.nan)  # a gap in the line
    axes.plot(curve.steps, positive, color=colour, linewidth=1.2, marker="o", markersize=2.8)
    if verdict.step is not None:
        axes.axvline(verdict.step, color=colour, linewidth=0.8, linestyle=(0, (4, 3)))


def draw_run(axes: Axes, curve: Curve, verdict: Convergence, label: str, colour: str) -> None:
    """One run: its curve, band, and its verdict, into ``axes``."""
    text = "not converged"
    if verdict.step is not None and verdict.interval is not None:
        text = f"step {verdict.step:,} ({verdict.interval[0]:,} to {verdict.interval[1]:,})"
        half = ((verdict.before or 0.0) + (verdict.after or 0.0)) / 2
        reach = [[verdict.step - verdict.interval[0]], [verdict.interval[1] - verdict.step]]
        axes.axvspan(*verdict.interval, color=colour, alpha=0.10, linewidth=0)
        axes.axvline(verdict.step, color=colour, linewidth=0.8, linestyle=(0, (4, 3)))
        style: dict[str, Any] = {
            "marker": "D",
            "markersize": 5.5,
            "markeredgecolor": "white",
            "capsize": 3.5,
            "elinewidth": 1.8,
        }
        axes.errorbar([verdict.step], [half], xerr=reach, color=colour, zorder=5, **style)
    axes.plot(
        curve.steps, curve.values, color=colour, linewidth=1.4, marker="o", markersize=2.8, label=f"{label}: {text}"
    )
    if curve.errors is not None:
        low, high = curve.values - 1.96 * curve.errors, curve.values + 1.96 * curve.errors
        axes.fill_between(curve.steps, low, high, color=colour, alpha=0.15, linewidth=0)
