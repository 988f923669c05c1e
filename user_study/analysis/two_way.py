"""Inference for votes that share raters and items: variance, interval, test, equivalence, minimal detectable effect.

A vote is a number: 1 when side A was chosen, 0 when side B was, 1/2 for a tie where ties count; a rank, in a ranking.
Raters and items are both samples of larger populations, so the mean vote has the variance of a crossed random design.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from scipy.stats import beta, t

LEVEL = 0.95
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Mean:
    """Mean votes with their two-way variance; arrays of one shape, one entry a study (usually one).

    Attributes
    ----------
    value, variance : float
        Mean vote and the variance of it.
    df : float
        Satterthwaite's degrees of freedom of ``variance``.
    n, raters, items : float
        Votes, raters and items behind it.
    """

    value: Floats
    variance: Floats
    df: Floats
    n: Floats
    raters: Floats
    items: Floats

    @property
    def clusters(self) -> Floats:
        """The smaller of the numbers of raters and items."""
        return np.minimum(self.raters, self.items)


def two_way_mean(votes: ArrayLike, rater: ArrayLike, item: ArrayLike, used: ArrayLike | None = None) -> Mean:
    """Mean and two-way variance of each row of ``votes``.

    V = V_rater + V_item - V_cell: squared sums of residuals over raters and over items times G / (G - 1), less the
    squares of what is left in a cell without its rater's and item's means (they are counted in both); at least the
    larger of the first two. In a complete table this is (MS_rater + MS_item - MS_cell) / n of the analysis of variance.
    Degrees of freedom after Satterthwaite: V^2 / sum(V_k^2 / (G_k - 1)), or those of
    the larger one where it stands alone.

    Parameters
    ----------
    votes
        (..., n) float.
    rater, item
        (n,) labels.
    used
        (..., n) bool, votes that count; all by default.

    References
    ----------
    Cameron, Gelbach and Miller (2011), J. Bus. Econ. Stat. 29, eq. 2.11; Satterthwaite (1946), Biometrics Bull. 2.
    """
    values = np.asarray(votes, dtype=np.float64)
    weight = np.ones_like(values) if used is None else np.asarray(used, dtype=np.float64)
    n = weight.sum(-1)
    raters, items = (np.unique(np.asarray(labels), return_inverse=True)[1] for labels in (rater, item))
    cells = np.unique(raters * (items.max(initial=0) + 1) + items, return_inverse=True)[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        value = (values * weight).sum(-1) / n
        residual = (values - value[..., None]) * weight
        rater_sums, rater_sizes = _sums(residual, weight, raters)
        item_sums, item_sizes = _sums(residual, weight, items)
        sizes = [(size > 0).sum(-1).astype(np.float64) for size in (rater_sizes, item_sizes)]
        sizes.append(np.maximum(n - sizes[0] - sizes[1] + 2, 2.0))
        by_rater = (rater_sums**2).sum(-1) * sizes[0] / (sizes[0] - 1) / n**2
        by_item = (item_sums**2).sum(-1) * sizes[1] / (sizes[1] - 1) / n**2
        means = [np.divide(s, size, where=size > 0, out=np.zeros_like(s)) for s, size in
                 ((rater_sums, rater_sizes), (item_sums, item_sizes))]  # fmt: skip
        left = residual - (means[0][..., raters] + means[1][..., items]) * weight
        by_cell = (_sums(left, weight, cells)[0] ** 2).sum(-1) / n / (sizes[2] - 1)
        larger = np.maximum(by_rater, by_item)
        variance = np.maximum(by_rater + by_item - by_cell, larger)
        terms = zip((by_rater, by_item, by_cell), sizes, strict=True)
        df = variance**2 / sum(part**2 / (size - 1) for part, size in terms)
        single = np.where(by_rater >= by_item, sizes[0], sizes[1]) - 1.0
    return Mean(value, variance, np.where(variance > larger, df, single), n, sizes[0], sizes[1])


def _sums(residual: Floats, weight: Floats, labels: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Sums of residuals and of weights by cluster, (..., G) each."""
    if np.array_equal(labels, np.arange(labels.size)):
        return residual, weight
    member = np.zeros((labels.size, int(labels.max(initial=0)) + 1))
    member[np.arange(labels.size), labels] = 1
    return residual @ member, weight @ member


def _degenerate(mean: Mean) -> NDArray[np.bool_]:
    """Rates without a variance to estimate: all votes alike, or every cluster at the same mean."""
    return (mean.value <= 0) | (mean.value >= 1) | (mean.variance <= 0)


def rate_interval(mean: Mean, level: float = LEVEL) -> tuple[Floats, Floats]:
    """Interval in [0, 1] of a win rate: t interval of its logit; NaN below two raters or two items.

    Where all votes are alike there is no variance; then the exact (Clopper-Pearson) interval of as many votes as the
    smaller number of clusters is taken, as if each rater had one opinion.
    """
    tail, g = (1 + level) / 2, mean.clusters
    with np.errstate(divide="ignore", invalid="ignore"):
        half = t.ppf(tail, mean.df) * np.sqrt(mean.variance) / (mean.value * (1 - mean.value))
        low, high = expit(logit(mean.value) - half), expit(logit(mean.value) + half)
        k = mean.value * g
        exact_low = np.where(k <= 0, 0.0, beta.ppf(1 - tail, k, g - k + 1))
        exact_high = np.where(k >= g, 1.0, beta.ppf(tail, k + 1, g - k))
    special, valid = _degenerate(mean), g >= 2
    return (
        np.where(valid, np.where(special, exact_low, low), np.nan),
        np.where(valid, np.where(special, exact_high, high), np.nan),
    )


def mean_half_width(mean: Mean, level: float = LEVEL) -> Floats:
    """Half-width of the t interval of a mean that is no rate, e.g. an average rank; NaN below two raters or items."""
    with np.errstate(invalid="ignore"):
        half = t.ppf((1 + level) / 2, mean.df) * np.sqrt(mean.variance)
    return np.where(mean.clusters >= 2, half, np.nan)


def rate_above(mean: Mean, rate: float) -> Floats:
    """One-sided p value of the hypothesis that the win rate is at most ``rate``: the inversion of `rate_interval`."""
    g = mean.clusters
    with np.errstate(divide="ignore", invalid="ignore"):
        score = (logit(mean.value) - logit(rate)) * mean.value * (1 - mean.value) / np.sqrt(mean.variance)
        p = t.sf(score, mean.df)
        k = mean.value * g
        exact = np.where(k <= 0, 1.0, beta.cdf(rate, k, g - k + 1))
    return np.where(g >= 2, np.where(_degenerate(mean), exact, p), 1.0)


def rate_below(mean: Mean, rate: float) -> Floats:
    """One-sided p value of the hypothesis that the win rate is at least ``rate``."""
    flipped = Mean(1 - mean.value, mean.variance, mean.df, mean.n, mean.raters, mean.items)
    return rate_above(flipped, 1 - rate)


def difference_test(mean: Mean, rate: float = 0.5) -> Floats:
    """Two-sided p value in [0, 1] of the hypothesis that the win rate is ``rate``; 1 below two raters or items."""
    return np.asarray(np.minimum(1.0, 2 * np.minimum(rate_above(mean, rate), rate_below(mean, rate))))


def equivalence_test(mean: Mean, margin: float, rate: float = 0.5) -> Floats:
    """Greater p value of two one-sided tests: small when the win rate lies within ``rate`` +- ``margin``.

    References
    ----------
    Schuirmann (1987), J. Pharmacokinet. Biopharm. 15 (TOST).
    """
    return np.maximum(rate_above(mean, rate - margin), rate_below(mean, rate + margin))


def minimal_detectable_effect(mean: Mean, power: float = 0.8, level: float = LEVEL) -> Floats:
    """Distance from 1/2 of a win rate that a study as precise as this one finds with ``power``; NaN where unknown.

    (t_(1+level)/2 + t_power) standard errors on the logit scale at a rate of 1/2, whose derivative is 1/4.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        at_half = np.sqrt(mean.variance * 0.25 / (mean.value * (1 - mean.value)))
        reach = (t.ppf((1 + level) / 2, mean.df) + t.ppf(power, mean.df)) * at_half / 0.25
    return np.where((mean.clusters >= 2) & ~_degenerate(mean), expit(reach) - 0.5, np.nan)


def needed_growth(mean: Mean, rate: float, power: float = 0.8, equal_within: float = 0.0) -> float | None:
    """How many times as many raters and items, each rater judging as many, show a win rate of ``rate`` with ``power``.

    Raters, items and votes grow together, so the variance falls by the same factor; None where it is unknown or the
    rate is 1/2. With ``equal_within`` a rate of 1/2 is to be shown equal within that margin (two one-sided tests).
    """
    value, variance, df = float(mean.value), float(mean.variance), float(mean.df)
    if float(mean.clusters) < 2 or bool(_degenerate(mean)) or (rate == 0.5 and not equal_within):
        return None
    error = np.sqrt(variance / (value * (1 - value)) / (rate * (1 - rate)))  # of the logit at ``rate``
    quantiles = (0.95, (1 + power) / 2) if equal_within else ((1 + LEVEL) / 2, power)
    distance = logit(0.5 + equal_within) if equal_within else abs(logit(rate))
    return float((sum(t.ppf(q, df) for q in quantiles) * error / distance) ** 2)


def rater_permutation_test(
    votes: ArrayLike, rater: ArrayLike, salt: int = 0, turns: int = 10_000, centre: float = 0.5
) -> float:
    """Two-sided p value in (0, 1] by turning whole raters round: other raters, but the same items.

    Under the hypothesis that no side is preferred on these items, a rater's summed preference is as often one way as
    the other. All 2^G sign patterns are gone through up to 13 raters, ``turns`` random ones beyond. It says nothing
    of other items, which the two-way test does.
    """
    _, raters = np.unique(np.asarray(rater), return_inverse=True)
    sums = np.bincount(raters, weights=np.asarray(votes, dtype=np.float64) - centre)
    if sums.size < 2:
        return 1.0
    if sums.size <= 13:
        bits = (np.arange(2**sums.size)[:, None] >> np.arange(sums.size)) & 1
        return float(np.mean(np.abs((1 - 2 * bits) @ sums) >= abs(sums.sum()) - 1e-9))
    signs = np.random.default_rng(salt).choice((-1.0, 1.0), (turns, sums.size))
    extreme = int(np.sum(np.abs(signs @ sums) >= abs(sums.sum()) - 1e-9))
    return (extreme + 1) / (turns + 1)


def holm(p_values: ArrayLike) -> list[float]:
    """Adjusted p values of several tests, in their order.

    References
    ----------
    Holm (1979), Scand. J. Stat. 6.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * (p.size - np.arange(p.size)))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in adjusted]


def scalar(array: Any) -> float | None:
    """The number in an array of one, None for NaN."""
    number = float(np.asarray(array))
    return None if np.isnan(number) else number
