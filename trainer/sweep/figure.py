"""The learning curve of a sweep as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.contract.figures import PALETTE, new_figure, save_figure
from pipeline.contract.sizes import format_size
from trainer.sweep.stats import FIDELITY, LOSS, final
from trainer.sweep.words import ARM_TITLES, SCALE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOOKS = {"steps": (PALETTE[0], "o"), "epochs": (PALETTE[1], "s")}  # told apart by shape too
TITLES = {
    FIDELITY: "condition fidelity above chance",
    LOSS: "held-out loss, another's map less true (x1000)",
}
APART = 1.05  # factor by which the arms stand apart, so that bars do not cover each other
ROOM = 0.35  # of the points' range that bars may reach beyond it before the frame cuts them


def draw_curves(table: pd.DataFrame, summary: Mapping[str, Any], path: Path) -> None:
    """Points of seeds, means with 95% bars, log x; a panel for fidelity and one for the loss gap; a PNG at ``path``."""
    metrics = [m for m in (FIDELITY, LOSS) if (table["metric"] == m).any()]
    figure, [panels] = new_figure(4.3 * len(metrics) + 0.4, 3.9, 1, len(metrics))
    cut = False
    for axes, metric in zip(panels, metrics, strict=True):
        cut |= _panel(axes, table, [r for r in summary["sizes"] if r["metric"] == metric], metric)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3, frameon=False, fontsize=9)
    note = (
        f"bars: 95% t interval over {summary['seeds']} training seeds" if summary["seeds"] > 1 else "one seed: no bars"
    )
    figure.text(
        0.995, 0.985, note + (", cut at the frame" if cut else ""), ha="right", va="top", fontsize=8, color="#555555"
    )
    save_figure(figure, path)


def _panel(axes: Axes, table: pd.DataFrame, rows: Sequence[Mapping[str, Any]], metric: str) -> bool:
    """One metric; True when a bar is longer than the frame."""
    arms = [arm for arm in LOOKS if any(r["arm"] == arm for r in rows)]
    scale, points, ends = SCALE[metric], [0.0], [0.0]
    for i, arm in enumerate(arms):
        colour, marker = LOOKS[arm]
        own = [r for r in rows if r["arm"] == arm]
        shift = APART ** (2 * i - len(arms) + 1)
        x = np.array([r["subset_size"] * shift for r in own])
        y, low, high = (np.array([r[k] for r in own], float) * scale for k in ("value", "ci_low", "ci_high"))
        seeds = final(table, arm, metric) * scale
        for at, size in zip(x, (r["subset_size"] for r in own), strict=True):
            values = seeds[size].dropna()
            beside = at * APART ** (1.1 if i else -1.1)  # not under the bar
            looks: dict[str, Any] = {"color": colour, "markersize": 4, "alpha": 0.6, "markeredgewidth": 0}
            axes.plot([beside] * len(values), values, marker, **looks)
            points += values.tolist()
        bars: dict[str, Any] = {"capsize": 3.5, "elinewidth": 1.3, "capthick": 1.3}
        reach = [y - low, high - y]
        mean: dict[str, Any] = {
            "color": colour,
            "marker": marker,
            "markersize": 6.5,
            "markeredgecolor": "white",
            "linewidth": 1.6,
        }
        axes.errorbar(x, y, yerr=reach, label=ARM_TITLES[arm], **mean, **bars)
        ends += [v for v in (*low, *high) if np.isfinite(v)]
    room = ROOM * (max(points) - min(points) or 1.0)
    bottom, top = max(min(ends), min(points) - room), min(max(ends), max(points) + room)
    pad = 0.06 * (top - bottom) or 0.5  # all numbers are 0
    axes.set_ylim(bottom - pad, top + pad)
    _dress(axes, sorted({r["subset_size"] for r in rows}), TITLES[metric])
    return min(ends) < bottom - pad or max(ends) > top + pad


def _dress(axes: Axes, sizes: Sequence[int], title: str) -> None:
    axes.set_xscale("log")
    axes.set_xticks(sizes, [format_size(n) for n in sizes])
    axes.minorticks_off()
    axes.margins(x=0.08)
    axes.axhline(0, color="#888888", linewidth=0.6, zorder=0)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("training images", fontsize=9)
    axes.set_title(title, fontsize=9.5, loc="left")
