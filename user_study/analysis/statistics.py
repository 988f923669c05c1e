"""Statistics of paired votes, as pure functions of arrays.

Votes are coded as ``wins``: 1 when side A was chosen, 0 when side B was, 0.5 for a tie where ties are counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95


def clopper_pearson(wins: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Exact binomial interval of wins / n in [0, 1]; (0, 1) when n = 0.

    Clopper and Pearson (1934), Biometrika 26: the beta quantiles B(a/2; k, n-k+1) and B(1-a/2; k+1, n-k).
    """
    from scipy.stats import binomtest

    if n == 0:
        return 0.0, 1.0
    interval = binomtest(wins, n).proportion_ci(level, method="exact")
    return float(interval.low), float(interval.high)


def sign_test(wins: int, n: int) -> float:
    """Two-sided p value in (0, 1] of the exact sign test of a win rate of 1/2; 1 when n = 0 (Dixon and Mood, 1946)."""
    from scipy.stats import binomtest

    return float(binomtest(wins, n, 0.5).pvalue) if n else 1.0


def equivalence_test(wins: int, n: int, margin: float) -> float:
    """Greater p value of two one-sided exact tests (TOST, Schuirmann 1987): the win rate lies within 0.5 +- margin.

    ``margin`` in (0, 0.5). Small p: the sides are equivalent within the margin. 1 when n = 0.
    """
    from scipy.stats import binomtest

    if n == 0:
        return 1.0
    above = binomtest(wins, n, 0.5 - margin, alternative="greater").pvalue
    below = binomtest(wins, n, 0.5 + margin, alternative="less").pvalue
    return float(max(above, below))


def sign_test_power(n: int, rate: float, alpha: float = 1 - LEVEL) -> float:
    """Chance in [0, 1] that ``n`` independent votes of true win ``rate`` reach p <= ``alpha`` in the sign test."""
    from scipy.stats import binom

    k = np.arange(n // 2 + 1)
    critical = int(np.sum(2 * binom.cdf(k, n, 0.5) <= alpha)) - 1  # reject at <= critical or >= n - critical wins
    if critical < 0:
        return 0.0
    return float(binom.cdf(critical, n, rate) + binom.sf(n - critical - 1, n, rate))


def votes_needed(rate: float, power: float = 0.8, alpha: float = 1 - LEVEL) -> int:
    """Least number of independent votes with ``power`` against a true win ``rate`` (not 0.5; below 20,000 votes).

    The power of an exact test is a saw in n, so n counts when n + 1 has the power as well. Clustered votes need
    ``design_effect`` times as many.
    """
    limit = 20_000
    for n in range(2, limit) if sign_test_power(limit, rate, alpha) >= power else ():
        if sign_test_power(n, rate, alpha) >= power and sign_test_power(n + 1, rate, alpha) >= power:
            return n
    raise ValueError(f"a win rate of {rate} needs more than {limit} votes")


def design_effect(votes_per_rater: float, icc: float) -> float:
    """1 + (m - 1) ICC: by how much clustering within raters inflates the variance (Kish 1965)."""
    return 1 + (votes_per_rater - 1) * icc


def two_way_variance(wins: ArrayLike, rater: ArrayLike, item: ArrayLike) -> float:
    """Variance of the mean of ``wins`` when votes share raters and items.

    Cameron, Gelbach and Miller (2011), eq. 2.11: V = V_rater + V_item - V_(rater and item), each with the factor
    G / (G - 1). Where the difference falls below the larger of the first two (it may, in small samples), that is taken.

    Args:
        wins: (n,) in [0, 1].
        rater: (n,) labels, at least two different ones.
        item: (n,) labels, at least two different ones.
    """
    values = np.asarray(wins, dtype=np.float64)
    _, raters = np.unique(np.asarray(rater), return_inverse=True)
    _, items = np.unique(np.asarray(item), return_inverse=True)
    residual = values - values.mean()

    def clustered(labels: NDArray[np.intp]) -> float:
        groups = np.unique(labels, return_inverse=True)[1]
        sums = np.bincount(groups, weights=residual)
        return float(sums @ sums * len(sums) / (len(sums) - 1)) / len(values) ** 2

    by_rater, by_item = clustered(raters), clustered(items)
    both = clustered(raters * (items.max() + 1) + items)
    return max(by_rater + by_item - both, by_rater, by_item)


def two_way_interval(
    wins: ArrayLike, rater: ArrayLike, item: ArrayLike, level: float = LEVEL
) -> tuple[float, float] | None:
    """Interval in [0, 1] of the win rate, valid when votes share raters and items; None below two of either.

    Exact interval at the effective number of votes (Korn and Graubard 1998, Survey Methodology 24): n* = p(1-p) / V
    with V the two-way variance, times (t_(n-1) / t_(G-1))^2 with G the smaller number of clusters, and at most n.
    A rate of 0 or 1 has no variance to estimate; there n* is G.
    """
    from scipy.stats import beta, t

    values = np.asarray(wins, dtype=np.float64)
    n = len(values)
    clusters = min(len(np.unique(np.asarray(rater))), len(np.unique(np.asarray(item))))
    if clusters < 2:
        return None
    rate = float(values.mean())
    variance = two_way_variance(values, rater, item)
    if rate in (0.0, 1.0) or variance == 0:
        effective = float(clusters)
    else:
        tail = (1 + level) / 2
        effective = rate * (1 - rate) / variance * float(t.ppf(tail, n - 1) / t.ppf(tail, clusters - 1)) ** 2
    effective = min(effective, float(n))
    k = rate * effective
    alpha = 1 - level
    low = 0.0 if rate == 0 else float(beta.ppf(alpha / 2, k, effective - k + 1))
    high = 1.0 if rate == 1 else float(beta.ppf(1 - alpha / 2, k + 1, effective - k))
    return low, high


def krippendorff_nominal(unit: ArrayLike, value: ArrayLike) -> float | None:
    """Krippendorff's alpha for nominal values: 1 full agreement, 0 as by chance; None when it is not defined.

    alpha = 1 - (n - 1) sum_u [(m_u^2 - sum_c n_uc^2) / (m_u - 1)] / (n^2 - sum_c n_c^2), over units with m_u >= 2
    values (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability").

    Args:
        unit: (n,) labels of what was judged.
        value: (n,) labels of the judgement.
    """
    _, units = np.unique(np.asarray(unit), return_inverse=True)
    kinds, values = np.unique(np.asarray(value), return_inverse=True)
    if units.size == 0:
        return None
    counts = np.zeros((units.max() + 1, len(kinds)))  # (units, values)
    np.add.at(counts, (units, values), 1)
    counts = counts[counts.sum(axis=1) >= 2]
    size = counts.sum(axis=1)
    n = float(size.sum())
    expected = n**2 - float((counts.sum(axis=0) ** 2).sum())
    if n == 0 or expected == 0:
        return None
    observed = float(((size**2 - (counts**2).sum(axis=1)) / (size - 1)).sum())
    return 1 - (n - 1) * observed / expected
