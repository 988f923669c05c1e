"""Means over training seeds as lines, with the seeds as points and 95% t bars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evaluation.metrics.intervals import seed_interval
from pipeline.contract.figures import PALETTE, new_figure, save_figure

MARKERS = "osD^vPX"  # told apart by shape too
ROOM = 0.35  # of the points' range that bars may reach beyond it before the frame cuts them


def draw_lines(
    panels: Sequence[tuple[str, pd.DataFrame]], x: str, line: str, path: Path, label: str,
    scale: Callable[[Any], Any] | None = None,
) -> None:  # fmt: skip
    """A panel each of ``panels`` (title, rows of one metric); column ``x`` across, a line each value of ``line``.

    ``scale`` places the values of a numeric ``x`` (e.g. ``np.log2``); without it they stand side by side.
    """
    figure, [axes] = new_figure(4.3 * len(panels) + 0.4, 3.7, 1, len(panels))
    for ax, (title, rows) in zip(axes, panels, strict=True):
        places = sorted(rows[x].unique())
        at = {v: float(scale(float(v))) if scale else float(i) for i, v in enumerate(places)}
        lines, points = sorted(rows[line].unique(), key=str), []
        gap = min(np.diff(sorted(at.values())), default=1.0)
        step = gap * min(0.12, 0.6 / len(lines))
        there = {v: [name for name in lines if (rows.loc[rows[x] == v, line] == name).any()] for v in places}
        for k, name in enumerate(lines):
            own = rows[rows[line] == name]
            values = {v: own.loc[own[x] == v, "value"].to_numpy(float) for v in places if name in there[v]}
            points += [float(value) for group in values.values() for value in group]
            # those of one place stand side by side around it
            across = [at[v] + step * (there[v].index(name) - (len(there[v]) - 1) / 2) for v in values]
            _line(ax, across, list(values.values()), k, str(name) or "none")
        room = ROOM * (np.ptp(points) or 1.0)
        ax.set_ylim(min(points) - room, max(points) + room)
        ax.set_xticks(
            [at[v] for v in places], [f"{v:,}" if isinstance(v, int | np.integer) else str(v) for v in places]
        )
        ax.set_xlabel(label, fontsize=9)
        ax.set_title(title, fontsize=9.5, loc="left")
        ax.grid(axis="y", color="#e6e6e6", linewidth=0.6)
        ax.set_axisbelow(True)
    axes[0].legend(title=line.replace("_", " "), fontsize=8, title_fontsize=8, frameon=False)
    save_figure(figure, path)


def _line(ax: Any, x: list[float], groups: list[Any], place: int, name: str) -> None:
    turn, hue = divmod(place, len(PALETTE))  # an eighth curve has the first one's colour, and another shape
    colour, marker = PALETTE[hue], MARKERS[(hue + turn) % len(MARKERS)]
    estimates = [seed_interval(values) for values in groups]
    for at, values in zip(x, groups, strict=True):
        ax.plot([at] * len(values), values, marker, color=colour, markersize=3.5, alpha=0.5, markeredgewidth=0)
    y = np.array([e.value for e in estimates])
    low = np.array([e.value if e.low is None else e.low for e in estimates])
    high = np.array([e.value if e.high is None else e.high for e in estimates])
    ax.errorbar(
        x, y, yerr=[y - low, high - y], label=name, color=colour, marker=marker, markersize=6, markeredgecolor="white",
        linewidth=1.5, capsize=3, elinewidth=1.2,
    )  # fmt: skip
