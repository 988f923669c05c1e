"""Learning curves over training seeds: where they cross a level, whether they rise, whether two ends are equal."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from evaluation.metrics.checks import Floats, matrix, vector
from evaluation.metrics.intervals import LEVEL
from pipeline.contract.errors import CnlabError

GRID = 400  # points of log n between neighbouring sizes: an end of an interval is right to a third of a percent


@dataclass(frozen=True)
class Crossing:
    """The size at which curves cross a level; None for what lies outside the measured range: "not known"."""

    value: float | None
    low: float | None
    high: float | None
    seeds: int
    reason: str = ""  # why a part is not known


def interpolate(sizes: ArrayLike, values: ArrayLike, at: ArrayLike) -> Floats:
    """(S, K) values at K ascending sizes -> (S, P) at ``at``, linear in log n; outside the sizes the end's value."""
    x, y = np.log(vector(sizes, "sizes")), matrix(values, "curves", least=1)
    return np.stack([np.interp(np.log(np.asarray(at, float)), x, row) for row in y])


def crossing(sizes: ArrayLike, differences: ArrayLike, level: float = LEVEL) -> Crossing:
    """Where rising curves cross a level, with its interval by inverting the t test over training seeds.

    Parameters
    ----------
    sizes : (K,) array
        Ascending, at least two.
    differences : (S, K) array
        Curve less level, seed by seed; the level may be each seed's own (a share of its value at the largest size).
    level : float
        Of the interval.

    Returns
    -------
    Crossing
        ``value``: first size at which the mean difference is 0 or more. The interval holds every size, linear in log n
        between the measured ones, at which a t test does not tell the mean difference from 0; an end at the edge of
        the measured range is None. Nothing is said beyond that range.

    Notes
    -----
    Inverting the test needs no model of the curve. A percentile bootstrap of a fitted power law covers .71 to .89.

    References
    ----------
    Fieller, "Some problems in interval estimation", JRSS B 1954, for the inversion.
    """
    from scipy.stats import t

    n, d = vector(sizes, "sizes", least=2), matrix(differences, "curves", least=1)
    if d.shape[1] != len(n) or (np.diff(n) <= 0).any():
        raise CnlabError(f"curves of shape {d.shape} do not fit {len(n)} ascending sizes")
    x = np.log(n)
    grid = np.exp(np.unique(np.concatenate([np.linspace(a, b, GRID) for a, b in pairwise(x)])))
    curves = interpolate(n, d, grid)
    mean, seeds = curves.mean(axis=0), len(d)
    above = np.flatnonzero(mean >= 0)
    value = float(grid[above[0]]) if len(above) and above[0] > 0 else None
    reason = "" if value else ("above the level at the smallest size" if len(above) else "below the level at all sizes")
    if seeds < 2:
        return Crossing(value, None, None, seeds, reason or "one seed")
    error = curves.std(axis=0, ddof=1) / np.sqrt(seeds)
    inside = np.flatnonzero(np.abs(mean) <= float(t.ppf((1 + level) / 2, seeds - 1)) * error)
    if not len(inside):  # the test leaves no size open: a jump between two grid points, or no crossing at all
        return Crossing(value, value, value, seeds, reason)
    low = float(grid[inside[0]]) if inside[0] > 0 else None
    high = float(grid[inside[-1]]) if inside[-1] < len(grid) - 1 else None
    return Crossing(value, low, high, seeds, reason)


def trend(values: ArrayLike) -> float:
    """p-value of Page's test that (S, K) values rise along K, each seed a block; one-sided.

    References
    ----------
    Page, "Ordered hypotheses for multiple treatments", JASA 1963; computed by `scipy.stats.page_trend_test`.
    """
    from scipy.stats import page_trend_test

    table = matrix(values, "trend", least=2)
    if table.shape[1] < 3:
        raise CnlabError(f"trend: {table.shape[1]} sizes, at least 3 are needed")
    return float(page_trend_test(table).pvalue)


def equivalence(first: ArrayLike, second: ArrayLike, margin: float) -> float:
    """p-value of two one-sided paired t tests that the mean of ``first - second`` lies within +- ``margin``.

    References
    ----------
    Schuirmann, "A comparison of the two one-sided tests procedure", J. Pharmacokinetics and Biopharmaceutics 1987.
    """
    from scipy.stats import t

    d = vector(first, "equivalence", least=2) - vector(second, "equivalence", least=2)
    inside, error = margin - abs(float(d.mean())), float(d.std(ddof=1)) / float(np.sqrt(len(d)))
    if error == 0:
        return float(inside <= 0)
    return float(t.sf(inside / error, len(d) - 1))  # of the nearer margin, hence the larger of the two
