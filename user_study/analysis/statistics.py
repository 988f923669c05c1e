"""What is known of votes one by one: exact figures as if they were independent, agreement, discrimination.

Exact figures are right for independent votes only. Votes share raters and items, so intervals and tests that are
reported come from `user_study.analysis.two_way`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import krippendorff
import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest, chi2, norm

LEVEL = 0.95


def clopper_pearson(wins: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Exact binomial interval of wins / n in [0, 1]; (0, 1) when n = 0.

    References
    ----------
    Clopper and Pearson (1934), Biometrika 26.
    """
    if n == 0:
        return 0.0, 1.0
    interval = binomtest(wins, n).proportion_ci(level, method="exact")
    return float(interval.low), float(interval.high)


def sign_test(wins: int, n: int) -> float:
    """Two-sided p value in (0, 1] of the exact sign test of a win rate of 1/2; 1 when n = 0 (Dixon and Mood, 1946)."""
    return float(binomtest(wins, n, 0.5).pvalue) if n else 1.0


def krippendorff_alpha(
    unit: ArrayLike, coder: ArrayLike, value: ArrayLike, scale: Literal["nominal", "ordinal"] = "nominal"
) -> float | None:
    """Krippendorff's alpha: 1 full agreement, 0 as by chance; None where nobody judged the same or nothing varies.

    Parameters
    ----------
    unit, coder
        (n,) labels of what was judged and by whom; the last value of a coder on a unit counts.
    value
        (n,) labels, or numbers with ``scale="ordinal"``.
    scale
        Level of measurement.
    """
    units, at_unit = np.unique(np.asarray(unit), return_inverse=True)
    coders, at_coder = np.unique(np.asarray(coder), return_inverse=True)
    kinds, codes = np.unique(np.asarray(value), return_inverse=True)
    table = np.full((len(coders), len(units)), np.nan)  # (coders, units)
    table[at_coder, at_unit] = codes
    shared = table[:, (~np.isnan(table)).sum(axis=0) >= 2]
    values = shared[~np.isnan(shared)]
    if values.size == 0 or np.unique(values).size < 2:
        return None
    return float(krippendorff.alpha(shared, level_of_measurement=scale, value_domain=np.arange(len(kinds))))


@dataclass(frozen=True)
class Overdispersion:
    """By how much raters differ more than chance makes them.

    Attributes
    ----------
    chi_square, df, p : float
        Pearson's statistic of equal accuracy over raters, with its p value.
    factor : float
        ``chi_square / df``: 1 when raters differ as by chance.
    icc : float
        Correlation of two votes of a rater, (factor - 1) / (m - 1) with m votes a rater, at least 0.
    effective_n : float
        Independent votes that would say as much about the mean, n / (1 + (m - 1) icc).
    """

    chi_square: float
    df: int
    p: float
    factor: float
    icc: float
    effective_n: float


def overdispersion(right: ArrayLike, n: ArrayLike) -> Overdispersion | None:
    """Spread of raters' accuracies beyond the binomial; None below two raters or when all or nothing was right.

    Parameters
    ----------
    right, n
        (G,) answers of each rater that were right, and all.
    """
    k, m = np.asarray(right, dtype=np.float64), np.asarray(n, dtype=np.float64)
    if k.size < 2 or not 0 < k.sum() < m.sum():
        return None
    rate = k.sum() / m.sum()
    statistic = float(((k - m * rate) ** 2 / (m * rate * (1 - rate))).sum())
    df = k.size - 1
    per_rater = float((m.sum() - (m**2).sum() / m.sum()) / df)  # m where raters answered equally many
    factor = statistic / df
    icc = max(0.0, (factor - 1) / (per_rater - 1)) if per_rater > 1 else 0.0
    effective = float(m.sum()) / (1 + (per_rater - 1) * icc)
    return Overdispersion(statistic, df, float(chi2.sf(statistic, df)), factor, icc, effective)


def d_prime(hits: int, signals: int, false_alarms: int, noise: int) -> tuple[float, float]:
    """Sensitivity d' and criterion c of yes/no answers, with the log-linear correction.

    d' = z(H) - z(F) and c = -(z(H) + z(F)) / 2 with H = (hits + 1/2) / (signals + 1), F likewise: finite for all
    counts.

    References
    ----------
    Green and Swets (1966); Hautus (1995), Behav. Res. Methods 27, for the correction.
    """
    hit, false = norm.ppf((hits + 0.5) / (signals + 1)), norm.ppf((false_alarms + 0.5) / (noise + 1))
    return float(hit - false), float(-(hit + false) / 2)
