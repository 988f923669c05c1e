"""Tidy rows of a sweep and what they say: means over training seeds, paired differences between sizes.

The unit of chance is the training seed: a retrained net differs far more than the same net judged on other samples
("The FID Lottery", Dufour et al. 2026, finds 3.2 times). Sizes are compared within a seed, for a seed fixes initial
weights, noise, timesteps and dropped prompts, and every run is judged on the same held-out samples and noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from trainer.sweep.plan import PlannedRun

COLUMNS = (
    "sweep", "arm", "subset_size", "train_seed", "steps", "images", "epochs", "step", "metric", "value", "ci_low",
    "ci_high", "n", "run",
)  # fmt: skip
FIDELITY, LOSS, CONVERGENCE = "fidelity/gap", "loss/gap", "convergence_step"
INCONCLUSIVE = 0.013  # relative; smaller differences say nothing ("The FID Lottery")


class Interval(NamedTuple):
    """A mean with its t interval over n numbers; no interval (NaN) for one number."""

    value: float
    ci_low: float
    ci_high: float
    n: int


def rows_of(
    sweep: str, run: PlannedRun, validation: pd.DataFrame, convergence: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Rows of a finished run, once for each arm it serves.

    From validation.parquet, ``metric`` being METRIC/ARM as in summary.json (``fidelity/gap`` is the chance-corrected
    fidelity), at every validated ``step``; intervals there are over the n held-out samples. ``convergence_step`` with
    its interval, NaN for "not converged", n being the points of its curve.
    """
    rows: Any = validation.itertuples()
    numbers = [
        (int(r.step), f"{r.metric}/{r.arm}", float(r.value), float(r.ci_low), float(r.ci_high), int(r.n)) for r in rows
    ]
    step = float("nan") if convergence["step"] is None else float(convergence["step"])
    low, high = convergence["interval"] or (float("nan"), float("nan"))
    numbers.append((run.steps, CONVERGENCE, step, float(low), float(high), int(convergence["points"])))
    shared = (run.size, run.config.seed, run.steps, run.images, run.epochs)
    return [
        dict(zip(COLUMNS, (sweep, arm, *shared, *number, run.name), strict=True))
        for arm in run.arms
        for number in numbers
    ]


def as_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows in the order and types of ``sweep.parquet``."""
    whole = ("subset_size", "train_seed", "steps", "images", "step", "n")
    real = ("epochs", "value", "ci_low", "ci_high")
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(
        dict.fromkeys(whole, "int64") | dict.fromkeys(real, "float64")
    )


def mean_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Mean and t interval of independent numbers (n,), n >= 1."""
    x = np.asarray(values, float)
    n, mean = len(x), float(x.mean())
    if n < 2:
        return Interval(mean, float("nan"), float("nan"), n)
    half = float(stats.t.ppf((1 + level) / 2, n - 1) * x.std(ddof=1) / np.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def final(table: pd.DataFrame, arm: str, metric: str) -> pd.DataFrame:
    """Values after the last step, training seeds down, sizes across, NaN where a run is missing."""
    rows = table[(table["arm"] == arm) & (table["metric"] == metric) & (table["step"] == table["steps"])]
    return rows.pivot(index="train_seed", columns="subset_size", values="value").sort_index(axis=1)


def main_metric(table: pd.DataFrame) -> str:
    """Chance-corrected fidelity; the gap of held-out losses where fidelity was not measured."""
    return FIDELITY if (table["metric"] == FIDELITY).any() else LOSS


def size_rows(
    table: pd.DataFrame, arms: Sequence[str], metrics: Sequence[str] = (FIDELITY, LOSS)
) -> list[dict[str, Any]]:
    """Mean over seeds of what each size reached: arm, metric, subset_size, steps, epochs, value, interval, n, sd."""
    found = []
    for arm in arms:
        for metric in metrics:
            for size, column in final(table, arm, metric).items():
                values = column.dropna()
                own = table[(table["arm"] == arm) & (table["subset_size"] == size)].iloc[0]
                found.append(
                    {"arm": arm, "metric": metric, "subset_size": int(str(size)), "steps": int(own["steps"]),
                     "epochs": float(own["epochs"]), **mean_interval(values)._asdict(),
                     "sd": float(values.std(ddof=1)) if len(values) > 1 else float("nan")}
                )  # fmt: skip
    return found


def differences(
    table: pd.DataFrame, arms: Sequence[str], metrics: Sequence[str] = (FIDELITY, LOSS)
) -> list[dict[str, Any]]:
    """Larger minus smaller of neighbouring sizes, seed by seed, with its t interval over seeds and a verdict."""
    found = []
    for arm in arms:
        for metric in metrics:
            values = final(table, arm, metric)
            for small, large in zip(values.columns[:-1], values.columns[1:], strict=True):
                pairs = values[[small, large]].dropna()
                if len(pairs):
                    gain = mean_interval(pairs[large] - pairs[small])
                    said = {"verdict": verdict(gain, float(pairs.to_numpy().mean()))}
                    sides: dict[str, Any] = {"smaller": int(small), "larger": int(large)}
                    found.append({"arm": arm, "metric": metric, **sides, **gain._asdict(), **said})
    return found


def verdict(gain: Interval, level: float) -> str:
    """What a paired difference says; ``level`` is the mean of the two sides it lies between."""
    if gain.n < 2:
        return "one seed: cannot be told from noise"
    if gain.ci_low <= 0 <= gain.ci_high:
        return "within the noise of seeds"
    if abs(gain.value) < INCONCLUSIVE * abs(level):
        return f"below {INCONCLUSIVE:.1%}: inconclusive"
    return "more with more images" if gain.value > 0 else "less with more images"


def convergences(table: pd.DataFrame, arms: Sequence[str]) -> list[dict[str, Any]]:
    """When nets began to follow their map: converged of runs, mean step of those, its interval where all converged.

    ``points``: of the shortest curve; the detector needs at least six.
    """
    found = []
    for arm in arms:
        for size, column in final(table, arm, CONVERGENCE).items():
            there = column.dropna()
            own = table[(table["arm"] == arm) & (table["subset_size"] == size) & (table["metric"] == CONVERGENCE)]
            nothing = Interval(float("nan"), float("nan"), float("nan"), 0)
            step = mean_interval(there) if len(there) else nothing
            if len(there) < len(own):  # the rest came later or never: an interval would leave them out
                step = step._replace(ci_low=float("nan"), ci_high=float("nan"))
            row = {"arm": arm, "subset_size": int(str(size)), "converged": len(there), "runs": len(own)}
            found.append({**row, "points": int(own["n"].min()), **step._asdict()})
    return found
