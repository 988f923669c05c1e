"""Figures: one palette, one look, no display and no global state. matplotlib is imported when a figure is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.contract.files import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito's palette, told apart by colour-blind readers: blue, vermilion, green, purple, orange, sky, black.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#999999"


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, **grid: Any
) -> tuple[Figure, list[list[Axes]]]:
    """A figure of so many inches with a grid of axes, without top and right spines; ``grid`` as for ``subplots``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes: list[list[Axes]] = figure.subplots(rows, columns, squeeze=False, **grid).tolist()
    for row in axes:
        for each in row:
            each.spines[["top", "right"]].set_visible(False)
            each.tick_params(labelsize=8.5)
    return figure, axes


def save_figure(figure: Figure, path: Path, dpi: int = 120) -> None:
    """Write a PNG atomically."""
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format="png")
