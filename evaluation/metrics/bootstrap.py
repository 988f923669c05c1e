"""Intervals: bootstrap of a mean, of a paired difference, and the delete-a-group jackknife of any statistic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.metrics.checks import same_shape, vector

RESAMPLES = (
    2000  # Monte Carlo error of a 95% limit is then below 5% of the interval (Efron and Tibshirani, 1993, ch. 19)
)
LEVEL = 0.95
SEED = 20260  # of the resampling only: an interval is a function of its data
GROUPS = 32  # of the jackknife: enough for a variance, few enough for a singular value decomposition each
LEAST = 4  # samples in a set for a jackknife: each turn must leave two
NORMAL = 1.959963984540054  # 97.5% point of the standard normal


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval (None where none can be had) and the number of samples behind it."""

    value: float
    low: float | None
    high: float | None
    n: int


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
    found = bootstrap(
        (x,), np.mean, n_resamples=resamples, confidence_level=LEVEL, method="BCa", batch=200,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return Estimate(mean, float(found.confidence_interval.low), float(found.confidence_interval.high), len(x))


def paired_difference(first: ArrayLike, second: ArrayLike, seed: int = SEED) -> Estimate:
    """Mean of ``first - second`` with its interval; both (N,), sample by sample.

    Pairing removes what the two have in common (scene, noise), so the interval is tighter than two separate ones.
    """
    x, y = vector(first, "paired difference"), vector(second, "paired difference")
    same_shape(x, y, "paired difference")
    return mean_interval(x - y, seed)


def group_jackknife(
    statistic: Callable[[NDArray[np.intp]], float], n: int, seed: int = SEED, groups: int = GROUPS
) -> Estimate:
    """A statistic with its normal interval by the delete-a-group jackknife.

    Parameters
    ----------
    statistic : callable
        Maps the (K,) indices of the samples kept to a number.
    n : int
        Number of samples.
    seed : int
        Of the assignment of samples to groups.
    groups : int
        Number of groups; at most ``n``.

    Returns
    -------
    Estimate
        The statistic of all samples, not corrected for bias, and value +- 1.96 standard errors.

    References
    ----------
    Shao and Tu, "The Jackknife and Bootstrap", 1995, section 2.3:
    var = (G - 1) / G sum_g (theta_(-g) - mean)^2.
    """
    value = statistic(np.arange(n))
    count = min(groups, n)
    if count < 3:
        return Estimate(value, None, None, n)
    label = np.random.default_rng(seed).permutation(n) % count
    left_out = np.array([statistic(np.flatnonzero(label != g)) for g in range(count)])
    error = NORMAL * float(np.sqrt((count - 1) / count * np.square(left_out - left_out.mean()).sum()))
    return Estimate(value, value - error, value + error, n)
