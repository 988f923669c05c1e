"""Paired differences of subjects that were evaluated on the same samples and noise."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from evaluation.config import CompareConfig
from evaluation.metrics.frechet import frechet_difference
from evaluation.metrics.intervals import Difference, holm, paired_difference
from evaluation.metrics.kernel import kernel_difference
from evaluation.metrics.mind import mind_difference
from evaluation.metrics.sets import set_names
from evaluation.report.spread import VARIANCES, seed_resolution, variances
from evaluation.report.words import interval, words
from evaluation.results import append_rows, read_results
from evaluation.scores import DIFFERENCE, FLOOR, features_file, read_features, read_scores
from evaluation.subjects import Subject
from pipeline.contract.errors import CnlabError
from pipeline.contract.files import atomic
from pipeline.contract.identity import code_version, fingerprint
from pipeline.fidelity import LOWER_IS_BETTER

if TYPE_CHECKING:
    import pandas as pd

ALPHA = 0.05
PAIR = ["key", "gen_seed"]  # the same sample and the same noise


def compare_all(config: CompareConfig) -> list[dict[str, Any]]:
    """Rows of every subject against the first, appended to the table; raises CnlabError when nothing can be paired."""
    first, *others = (_scores_of(config, name) for name in config.subjects)
    rows: list[dict[str, Any]] = []
    for other in others:
        rows += _difference_rows(first, other) + _distance_rows(config.results, first, other)
    append_rows(config.results, [{k: v for k, v in row.items() if k != "p"} for row in rows])
    adjusted = holm({str(i): row["p"] for i, row in enumerate(rows) if row["p"] is not None})
    table = read_results(config.results)
    return [{**row, "p": adjusted.get(str(i)), "resolution": seed_resolution(table, row)} for i, row in enumerate(rows)]


def _scores_of(config: CompareConfig, name: str) -> pd.DataFrame:
    """Scores of one subject; several recipes, datasets or conditions of it are refused until one is named."""
    subject = str(Subject.parse(name))
    table = read_scores(config.results)
    own = table[table["run"] == subject] if len(table) else table
    for column in ("dataset", "condition", "model", "recipe", "step") if len(own) else ():
        value, present = getattr(config, column), sorted(own[column].dropna().unique())
        if column == "recipe" and own.arm.eq("prior").all():
            # nothing of a ControlNet is part of its recipe
            value = ",".join(part for part in value.split(",") if not part.startswith(("strength=", "weighting=")))
        if value and (column != "step" or len(present) > 1):  # of two runs each has steps of its own
            own = own[(own[column] == value) | own[column].isna()]
        if own[column].nunique() > 1 or (present and not len(own)):
            fault = f"has no scores with --{column} {value}" if value else f"has scores with several {column}s"
            raise CnlabError(f"{subject} {fault}; give --{column} and one of {', '.join(map(str, present))}")
    if not len(own):
        raise CnlabError(f"{config.results} holds no scores of {subject}; evaluate it first")
    return own


def _difference_rows(first: pd.DataFrame, other: pd.DataFrame) -> list[dict[str, Any]]:
    """First minus other, metric by metric, over the pictures that both have."""
    a, b = first.iloc[0], other.iloc[0]
    if a.eval_fingerprint != b.eval_fingerprint:
        raise CnlabError(f"{a.run} and {b.run} were evaluated on different samples ({a.dataset}, {b.dataset})")
    if a.arm == b.arm == "control" and a.recipe != b.recipe:
        raise CnlabError(f"{a.run} and {b.run} were sampled by different recipes ({a.recipe}, {b.recipe})")
    fixed = not {"real", "autoencoder", "folder"}.isdisjoint({a.arm, b.arm})
    pair = ["key"] if fixed else PAIR  # real pictures have no noise
    both = first.merge(other, on=[*pair, "metric", "metric_version"], suffixes=("", "_other"))
    rows = []
    for (metric, version), own in both.groupby(["metric", "metric_version"]):
        if not str(metric).endswith(FLOOR):
            # the groups of one sample are not independent: averaged first
            per_sample = own.groupby("key")[["value", "value_other"]].mean()
            estimate = paired_difference(per_sample.value.to_numpy(float), per_sample.value_other.to_numpy(float))
            rows.append(_row(str(metric), str(version), estimate, a, b))
    if not rows:
        raise CnlabError(f"{a.run} and {b.run} have no picture of the same sample, noise and metric in common")
    return rows


def _distance_rows(results: Path, first: pd.DataFrame, other: pd.DataFrame) -> list[dict[str, Any]]:
    """Differences of the distances to real pictures, by every network whose features of all three are there."""
    a, b = first.iloc[0], other.iloc[0]
    groups = sorted(set(first.gen_seed) & set(other.gen_seed))
    if not groups:
        return []
    of = {x.run: features_file(x.pictures, x.eval_fingerprint, int(groups[0])) for x in (a, b)}
    names = [of[a.run], of[b.run], features_file(fingerprint("real"), a.eval_fingerprint, 0)]
    rows = []
    for (frechet, kernel), features in read_features(results, names):
        n = min(map(len, features))
        x, y, real = (each[:n] for each in features)
        differences = {
            frechet: frechet_difference(x, y, real),
            kernel: kernel_difference(x, y, real),
            next(name for name in set_names((frechet, kernel)) if name.startswith("mind")): mind_difference(x, y, real),
        }
        rows += [_row(name, "", difference, a, b, lower=True) for name, difference in differences.items()]
    return rows


def _row(metric: str, version: str, estimate: Difference, a: Any, b: Any, lower: bool = False) -> dict[str, Any]:
    lower = lower or any(metric.endswith(f"_{name}") for name in LOWER_IS_BETTER)
    return {
        "run": a.run,
        "against": b.run,
        "dataset": a.dataset,
        "condition": a.condition,
        "split": "eval",
        "metric": metric + DIFFERENCE,
        "metric_version": version,
        "value": estimate.value,
        "ci_low": estimate.low,
        "ci_high": estimate.high,
        "n": estimate.n,
        "higher_is_better": not lower,
        "fingerprint": fingerprint([a.pictures, b.pictures, metric, version, estimate.n]),
        "commit": code_version()["commit"],
        "arm": a.arm,
        "model": None if a.model is None or a.model != a.model else a.model,
        "recipe": None if a.recipe is None or a.recipe != a.recipe else a.recipe,
        "interval": "images",
        "p": estimate.p,
    }


def verdicts(rows: list[dict[str, Any]]) -> list[str]:
    """A line a row: which of the two is better, or that these pictures do not tell, by Holm's p-values of all rows.

    And whether another training seed alone would make such a difference, where runs that differ in it were evaluated.
    """
    lines = [_verdict(row) for row in rows]
    trained = any(
        Subject.parse(row[side]).arm in ("control", "shuffled") for row in rows for side in ("run", "against")
    )
    if trained and all(row["resolution"][0] is None for row in rows):
        lines.append(
            "What another training seed alone changes is not known here: evaluate runs that differ in --seed alone, on "
            "the same samples and by the same recipe, and compare again"
        )
    return lines


def _verdict(row: dict[str, Any]) -> str:
    name, p, (least, runs) = words(row["metric"].removesuffix(DIFFERENCE)), row["p"], row["resolution"]
    facts = (
        " ".join(filter(None, (f"{name}: {row['value']:+.3g}", interval(SimpleNamespace(**row))))) + f", n = {row['n']}"
    )
    if p is None:
        return f"{facts}: too few pictures to tell {row['run']} and {row['against']} apart"
    if p > ALPHA:
        return f"{facts}: {row['run']} and {row['against']} cannot be told apart"
    better = (row["value"] > 0) == row["higher_is_better"]
    line = f"{facts}, p = {p:.2g}: {row['run'] if better else row['against']} is better"
    if least is None:
        return line
    if abs(row["value"]) < least:
        return (
            f"{line} here, but below resolution: other training seeds alone move it by up to {least:.2g} ({runs} runs)"
        )
    return f"{line}, by more than training seeds alone move it ({least:.2g}, {runs} runs)"


def write_variances(results: Path) -> tuple[Path, pd.DataFrame] | None:
    """Write variances.csv, of every set of runs that differ in their seed alone; None where there is none."""
    table = variances(results, read_results(results))
    if not len(table):
        return None
    path = results / VARIANCES
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False)
    return path, table
