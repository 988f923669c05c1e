"""Numbers in an experiment's page."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from evaluation.experiments.base import LOSS_GAP, PRIMARY, TITLES, Grid, final, metrics_of
from evaluation.metrics.curves import Crossing
from evaluation.metrics.intervals import Estimate, seed_interval
from pipeline.contract.text import for_markdown

#: What a page shows, in this order; the other metrics stand in the table that lies beside it.
HEADLINES = (f"^{PRIMARY}$", f"^{LOSS_GAP}$", "_normalised$", "^clip_score$", "^kid", "^copied")


def number(estimate: Estimate, digits: int = 3) -> str:
    """``0.412 [0.380, 0.444]``, without brackets where there is no interval."""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.{digits}f}"
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def images(size: Crossing) -> str:
    """``210 images [95, 480]``; an end outside the measured range is "not known"."""

    def end(value: float | None) -> str:
        return "not known" if value is None else f"{value:,.0f}"

    return f"{end(size.value)} images [{end(size.low)}, {end(size.high)}]" + (
        f" ({size.reason})" if size.reason else ""
    )


def p_value(p: float | None) -> str:
    """``p = .012``, ``p < .001``."""
    if p is None:
        return "no test"
    return "p < .001" if p < 0.001 else f"p = {p:.3f}".replace("0.", ".", 1)


def means(table: pd.DataFrame, columns: Sequence[str], title: str = "Means over training seeds") -> Grid:
    """A row a combination of ``columns``, a column a headline metric: mean with its t interval over seeds, n seeds."""
    metrics = headlines(table)
    rows: dict[tuple[str, ...], list[str]] = {}
    for place, metric in enumerate(metrics):
        for key, own in final(table, metric).groupby([*columns], dropna=False, sort=True):
            cells = rows.setdefault(tuple(map(text, key)), ["–"] * len(metrics))
            estimate = seed_interval(own["value"].to_numpy(float))
            cells[place] = f"{number(estimate)}, n = {estimate.n}"
    head = (*(c.replace("_", " ") for c in columns), *(for_markdown(TITLES.get(m, m)) for m in metrics))
    return Grid(title, head, [[*map(for_markdown, key), *cells] for key, cells in rows.items()])


def headlines(table: pd.DataFrame) -> list[str]:
    """The metrics of a table that its page shows: fidelity, loss, caption, distance, copying."""
    metrics = metrics_of(table)
    return [m for pattern in HEADLINES for m in metrics if re.search(pattern, m)]


def text(value: object) -> str:
    """A cell of the table for people."""
    return "–" if value == "" or pd.isna(value) else f"{value:g}" if isinstance(value, float) else str(value)  # type: ignore[call-overload]
