"""What an experiment is: cells, and an analysis that was written down before the data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evaluation.experiments.cells import Cell, Scoring
from evaluation.experiments.config import ExperimentConfig
from pipeline.contract.errors import CnlabError

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

PRIMARY = "fidelity/gap"  # of a run's last validation: above the floor of other samples' maps
MEASURES = ("_f1_2px", "_ssim", "_rmse", "_miou")
LOSS_GAP = "loss/gap"
TITLES = {PRIMARY: "fidelity above the floor", LOSS_GAP: "held-out loss gap", "clip_score": "CLIP score"}


def plain(config: ExperimentConfig) -> tuple[Scoring, ...]:
    """One scoring with the default recipe."""
    return (Scoring("plain"),)


@dataclass(frozen=True)
class Finding:
    """One answer: a sentence, and the numbers behind it."""

    name: str
    sentence: str
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Grid:
    """A table of the report: Markdown cells."""

    title: str
    head: tuple[str, ...]
    rows: list[list[str]]


@dataclass(frozen=True)
class Outcome:
    """All that an analysis says."""

    findings: list[Finding]
    grids: list[Grid]


@dataclass(frozen=True)
class Experiment:
    """``plan``: what is compared, by which test, and what would count as an answer. It is frozen by its sha256."""

    name: str
    question: str
    plan: str
    plan_sha256: str
    cells: Callable[[ExperimentConfig], list[Cell]]
    analyse: Callable[[pd.DataFrame], Outcome]
    draw: Callable[[pd.DataFrame, Path], None] | None = None
    scorings: Callable[[ExperimentConfig], tuple[Scoring, ...]] = plain
    required: tuple[str, ...] = (PRIMARY,)  # metrics and scorings without which a known cell is measured again

    def check(self) -> None:
        """Raises CnlabError when the plan is not the one that was frozen."""
        if plan_hash(self.plan) != self.plan_sha256:
            raise CnlabError(
                f"the analysis plan of {self.name} was changed after it was frozen ({self.plan_sha256[:12]}); restore "
                f"it, or freeze the new one ({plan_hash(self.plan)}) before there are data"
            )


def plan_hash(plan: str) -> str:
    """sha256 of a plan's words, whatever its line breaks."""
    return hashlib.sha256(" ".join(plan.split()).encode()).hexdigest()


def final(table: pd.DataFrame, metric: str, scoring: str | None = None) -> pd.DataFrame:
    """Rows of a metric after the last step, without missing values."""
    rows = table[(table["metric"] == metric) & (table["step"] == table["steps"]) & table["value"].notna()]
    return rows if scoring is None else rows[rows["scoring"] == scoring]


def by_seed(rows: pd.DataFrame, columns: str | Sequence[str]) -> pd.DataFrame:
    """Values with seeds down and ``columns`` across, NaN where a cell is missing."""
    names = [columns] if isinstance(columns, str) else list(columns)
    wide = rows.astype({"value": float}).pivot_table(index=["train_seed", "order_seed"], columns=names, values="value")
    return wide.sort_index(axis=1)


def scored(table: pd.DataFrame) -> pd.DataFrame:
    """The scored fidelity of every scoring: the first of F1 at 2 px, SSIM ... that the table has (`MEASURES`)."""
    for measure in MEASURES:
        rows = table[(table["scoring"] != "validation") & table["metric"].str.endswith(measure)]
        if len(rows):
            return rows[rows["value"].notna()]
    return table.iloc[:0]


def metrics_of(table: pd.DataFrame) -> list[str]:
    """Primary, loss gap, and the metrics of scorings that are there."""
    scored = sorted(set(table.loc[table["scoring"] != "validation", "metric"]))
    return [m for m in (PRIMARY, LOSS_GAP, *scored) if len(final(table, m))]
