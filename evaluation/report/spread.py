"""What retraining with another seed does: the measured spread of runs that differ in their seed alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.metrics.intervals import Variances, resolution, variance_table
from evaluation.scores import DIFFERENCE, FLOOR, NORMALISED, read_scores
from evaluation.subjects import Subject

if TYPE_CHECKING:
    import pandas as pd

#: Runs that agree in these, and in their names but for the seed, are one cell. What they were measured by:
MEASURED = ("dataset", "condition", "model", "recipe", "metric", "metric_version", "n")
#: What they were trained on and how long.
TRAINED = ("arm", "subset_size", "step", "variant", "fault", "dose", "selection")
VARIANCES = "variances.csv"


def _trained(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of trained nets, with the column ``cell``; a cell where a seed occurs twice is told from no other."""
    rows = table[table.arm.eq("control") & table.against.isna() & table.train_seed.notna()].copy()
    names = zip(rows.run, rows.train_seed, strict=True)
    rows["name"] = [re.sub(rf"(^|[-_])s{seed}(?=$|[-_])", r"\1s*", str(run)) for run, seed in names]
    rows.loc[rows.name == rows.run, "name"] = ""  # a name of its own tells nothing about the seed
    cell = rows[[*TRAINED, *MEASURED, "name"]].astype("string").fillna("")
    rows["cell"] = cell.agg("\x1f".join, axis=1) if len(rows) else ""
    runs = rows.groupby("cell")[["run", "train_seed"]].nunique()
    mixed = runs.index[runs.run > runs.train_seed]
    return rows[~rows.cell.isin(mixed)]


def _by_seed(cell: pd.DataFrame) -> list[float]:
    """(S,) values of a cell, the mean over the generation groups that all of its runs have."""
    table = cell.pivot_table(index="train_seed", columns="gen_seed", values="value", aggfunc="first")
    return [float(value) for value in table.dropna(axis=1).mean(axis=1).dropna()]


def seed_resolution(table: pd.DataFrame, row: dict[str, Any]) -> tuple[float | None, int]:
    """Smallest difference of ``row`` that seeds alone would seldom make, and the number of runs that tell.

    ``table``: the results; ``row``: a difference of `evaluation.compare`. The spread is that of the two runs' own cells
    where one of them has several seeds, else of all cells of that metric, dataset, condition, model, recipe and n.
    (None, 0) where no two runs differ in their seed alone, or neither side is a trained net.
    """
    import pandas as pd

    sides = [Subject.parse(name) for name in (row["run"], row["against"])]
    nets = {side.name for side in sides if side.arm in ("control", "shuffled")}
    rows = _trained(table)
    rows = rows[rows.metric.eq(row["metric"].removesuffix(DIFFERENCE))]
    for name in ("dataset", "condition", "model", "recipe", "metric_version", "n"):
        if not pd.isna(row[name]) and row[name] != "":
            rows = rows[rows[name].eq(row[name])]
    if not nets or not len(rows):
        return None, 0
    own = rows[rows.cell.isin(rows.cell[rows.run.isin(nets)])]
    for part in (own, rows):
        values = [each for _, cell in part.groupby("cell") if len(each := _by_seed(cell)) > 1]
        if values:
            return resolution(values, runs=len(nets)), sum(map(len, values))
    return None, 0


def variances(results: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Variance components (`Variances`) of every per-picture score of every cell with two seeds or more.

    Over the samples and generation groups that all runs of the cell have in common.
    """
    import pandas as pd

    scores = read_scores(results)
    return pd.DataFrame(list(_components(scores, _trained(table)))) if len(scores) else pd.DataFrame()


def _components(scores: pd.DataFrame, rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    place = ["dataset", "condition", "model", "recipe"]
    rows = rows[~rows.metric.str.endswith((FLOOR, NORMALISED))]
    for same, cell in rows.drop(columns="n").groupby([*TRAINED, *MEASURED[:-1], "name"], dropna=False):
        facts = dict(zip([*TRAINED, *MEASURED[:-1], "name"], same, strict=True))
        runs = sorted(set(cell.run))
        if len(runs) < 2:
            continue
        own = scores[scores.run.isin(runs) & scores.metric.eq(str(facts["metric"]))]
        own = own[own.metric_version.eq(str(facts["metric_version"]))]
        own = own[(own[place].astype("string").fillna("") == [str(facts[name]) for name in place]).all(axis=1)]
        cube = own.pivot_table(index=["gen_seed", "key"], columns="run", values="value").reindex(columns=runs)
        cube = cube.dropna().unstack("gen_seed").dropna()  # type: ignore[assignment]
        if len(cube) < 2:  # a metric of sets, or nothing in common
            continue
        groups = cube.shape[1] // len(runs)
        values = cube.to_numpy(float).reshape(len(cube), len(runs), groups).transpose(1, 2, 0)
        yield {
            "runs": " ".join(runs),
            **{name: facts[name] for name in (*TRAINED, *MEASURED[:-1])},
            "seeds": len(runs),
            "groups": groups,
            "n": len(cube),
            **asdict(variance_table(values)),
        }


def variance_lines(table: pd.DataFrame) -> list[list[str]]:
    """For people: metric, what it is over, and the standard deviation of each component."""
    fields = list(Variances.__dataclass_fields__)
    return [
        [row["runs"], row["metric"], f"{row['seeds']} x {row['groups']} x {row['n']}"]
        + [f"{row[name] ** 0.5:.3g}" for name in fields]
        for _, row in table.iterrows()
    ]
