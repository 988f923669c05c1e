"""Intervals: images (BCa), sets (jackknife), paired differences, training seeds (t), many at once (Holm).

What varies decides the interval. Numbers of pictures: the samples (`mean_interval`, `paired_difference`). A distance
between sets: its jackknife values (`SetDistance`). A retrained net: the training seeds (`seed_interval`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from evaluation.metrics.checks import Floats, same_shape, vector
from pipeline.contract.errors import CnlabError

RESAMPLES = (
    2000  # Monte Carlo error of a 95% limit is then below 5% of the interval (Efron and Tibshirani, 1993, ch. 19)
)
LEVEL = 0.95
SEED = 20260  # of the resampling only: an interval is a function of its data
LEAST = 4  # samples in a set for a jackknife: each turn must leave two


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval (None where none can be had) and the number of samples behind it."""

    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Difference(Estimate):
    """First minus second, measured on the same samples; ``p`` is two-sided, None where there is no interval."""

    p: float | None = None


@dataclass(frozen=True)
class SetDistance:
    """A distance between two sets of features with the jackknife values of each sample.

    value  of all samples, not corrected for bias
    of_x   (N,) and of_y (M,): what each sample adds; var(value) is var(of_x) / N + var(of_y) / M
    """

    value: float
    of_x: Floats
    of_y: Floats

    def estimate(self, paired: bool = False, least: float | None = None) -> Estimate:
        """With its t interval; ``paired``: row i of both sets is one scene; ``least``: the smallest value there is."""
        n = min(len(self.of_x), len(self.of_y))
        error = _error([self.of_x, self.of_y], paired)
        if error is None:
            return Estimate(self.value, None, None, n)
        half = _t(n - 1) * error
        low = self.value - half if least is None else max(self.value - half, least)
        return Estimate(self.value, low, self.value + half, n)


def set_difference(first: SetDistance, second: SetDistance) -> Difference:
    """First minus second where both were taken to the same reference, with pictures of the same keys and noise.

    Row i of the two sets of pictures is one scene. What the scene and the reference give to both drops out, so the
    interval is about half as wide as that of two separate ones (kernel distance: 13.7 -> 6.7).
    """
    same_shape(first.of_x, second.of_x, "difference of two distances")
    same_shape(first.of_y, second.of_y, "difference of two distances, reference")
    paired = len(first.of_x) == len(first.of_y)
    error = _error([first.of_x - second.of_x, first.of_y - second.of_y], paired)
    return _difference(first.value - second.value, error, len(first.of_x))


def mean_interval(values: ArrayLike, seed: int = SEED, resamples: int = RESAMPLES) -> Estimate:
    """Mean with its bias-corrected and accelerated bootstrap interval.

    Parameters
    ----------
    values : (N,) array
        One number a sample.
    seed : int
        Of the resampling.
    resamples : int
        Number of bootstrap samples.

    Returns
    -------
    Estimate
        Equal limits when all values are equal; none when there is one sample.

    References
    ----------
    Efron, "Better bootstrap confidence intervals", JASA 1987; computed by `scipy.stats.bootstrap`.
    """
    from scipy.stats import bootstrap

    x = vector(values, "mean")
    mean = float(x.mean())
    if len(x) == 1:
        return Estimate(mean, None, None, 1)
    if np.ptp(x) == 0:  # no spread: scipy warns and returns NaN
        return Estimate(mean, mean, mean, len(x))
    # batch bounds memory at 200 N numbers
    result = bootstrap(
        (x,), np.mean, n_resamples=resamples, confidence_level=LEVEL, method="BCa", batch=200,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return Estimate(mean, float(result.confidence_interval.low), float(result.confidence_interval.high), len(x))


def paired_difference(first: ArrayLike, second: ArrayLike, seed: int = SEED) -> Difference:
    """Mean of ``first - second`` with its BCa interval and the p-value of the paired t test; both (N,), by sample.

    Pairing removes what the two have in common (scene, noise), so the interval is tighter than two separate ones.
    """
    x, y = vector(first, "paired difference"), vector(second, "paired difference")
    same_shape(x, y, "paired difference")
    interval, p = mean_interval(x - y, seed), None
    if len(x) > 1:
        p = _difference(interval.value, float((x - y).std(ddof=1)) / float(np.sqrt(len(x))), len(x)).p
    return Difference(interval.value, interval.low, interval.high, interval.n, p)


def seed_interval(values: ArrayLike) -> Estimate:
    """Mean and t interval of (S,) independent runs, one number a training seed."""
    x = vector(values, "training seeds")
    spread = _error([x], False)
    half = None if spread is None else _t(len(x) - 1) * spread
    mean = float(x.mean())
    return Estimate(mean, None if half is None else mean - half, None if half is None else mean + half, len(x))


def seed_difference(first: ArrayLike, second: ArrayLike) -> Difference:
    """Mean of ``first - second`` over training seeds, seed by seed (paired t)."""
    x, y = vector(first, "training seeds"), vector(second, "training seeds")
    same_shape(x, y, "training seeds")
    return _difference(float((x - y).mean()), _error([x - y], False), len(x))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values adjusted for their number, by name, so that .05 bounds the chance of one false claim in the table.

    References
    ----------
    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 1979.
    """
    adjusted, running = {}, 0.0
    for place, name in enumerate(sorted(p_values, key=lambda k: p_values[k])):
        running = max(running, min((len(p_values) - place) * p_values[name], 1.0))
        adjusted[name] = running
    return {name: adjusted[name] for name in p_values}


def resolution(seed_values: Sequence[ArrayLike], runs: int = 2) -> float | None:
    """The smallest difference that retraining with another seed would seldom (5%) make.

    Parameters
    ----------
    seed_values
        Cells of one metric, each with the (S,) values of its training seeds; their variances are pooled.
    runs : int
        How many trained nets the difference is of: 2, or 1 against what is not trained.

    Returns
    -------
    float or None
        t sqrt(runs) times the pooled standard deviation; None when no cell has two seeds.
    """
    cells = [vector(values, "training seeds") for values in seed_values]
    freedom = sum(len(x) - 1 for x in cells)
    if freedom < 1:
        return None
    pooled = sum(float(np.square(x - x.mean()).sum()) for x in cells) / freedom
    return _t(freedom) * float(np.sqrt(runs * pooled))


@dataclass(frozen=True)
class Variances:
    """Variance components of a score: training seeds, samples, noise (groups of one sample), and what is left."""

    seed: float
    sample: float
    group: float
    residual: float


def variance_table(scores: ArrayLike) -> Variances:
    """Components of (S, G, N) scores, seeds x generation groups x samples, each at least 2 long but the groups.

    Every sample has noise of its own in each group, the same for all seeds: groups are nested in samples, and both are
    crossed with seeds. A negative estimate is 0. With one group, samples and noise cannot be told apart: `group` is 0.

    References
    ----------
    Searle, Casella and McCulloch, "Variance Components", 1992, chapter 4 (analysis of variance, balanced data).
    """
    x = np.asarray(scores, np.float64)
    if x.ndim != 3 or x.shape[0] < 2 or x.shape[2] < 2:
        raise CnlabError(f"variance table: expected (seeds, groups, samples) with two of each, got {x.shape}")
    seeds, groups, samples = x.shape
    mean, by_sample, by_picture = x.mean(), x.mean(axis=(0, 1)), x.mean(axis=0)
    by_seed = x.mean(axis=(1, 2))
    residual = np.square(x - by_picture - by_seed[:, None, None] + mean).sum() / ((seeds - 1) * (groups * samples - 1))
    of_seed = groups * samples * np.square(by_seed - mean).sum() / (seeds - 1)
    of_sample = seeds * groups * np.square(by_sample - mean).sum() / (samples - 1)
    of_group = residual
    if groups > 1:
        of_group = seeds * np.square(by_picture - by_sample).sum() / (samples * (groups - 1))
    return Variances(
        max(float(of_seed - residual) / (groups * samples), 0.0),
        max(float(of_sample - of_group) / (seeds * groups), 0.0),
        max(float(of_group - residual) / seeds, 0.0),
        float(residual),
    )


def _t(freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, freedom))


def _error(parts: Sequence[Floats], paired: bool) -> float | None:
    """Standard error of a sum of means; None where a part has too few samples."""
    least = LEAST if len(parts) > 1 else 2
    if min(len(part) for part in parts) < least:
        return None
    if paired:
        parts = [np.sum(parts, axis=0)]
    return float(np.sqrt(sum(part.var(ddof=1) / len(part) for part in parts)))


def _difference(value: float, error: float | None, n: int) -> Difference:
    from scipy.stats import t

    if error is None:
        return Difference(value, None, None, n)
    half = _t(n - 1) * error
    p = float(2 * t.sf(abs(value) / error, n - 1)) if error > 0 else float(value == 0)
    return Difference(value, value - half, value + half, n, p)
