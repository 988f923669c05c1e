"""Kernel distance between two sets of features (KID, whatever the features)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from evaluation.metrics.checks import Floats, feature_sets
from evaluation.metrics.intervals import Difference, Estimate, SetDistance, set_difference

SCALE = 1000.0  # reported x1000, as is usual
BLOCK = 1024  # rows of the Gram matrix at a time: memory stays at 8 BLOCK (N + M) bytes


def kernel_distance(x: ArrayLike, y: ArrayLike) -> float:
    """Unbiased squared maximum mean discrepancy under the kernel (x.y / D + 1)^3, times 1000.

    Parameters
    ----------
    x : (N, D) array
        Features, N >= 2.
    y : (M, D) array
        Features, M >= 2.

    Returns
    -------
    float
        0 on average for equal laws, hence negative about half of the time.

    Notes
    -----
    The whole U-statistic over all pairs. The reference implementation averages 100 random subsets of 1,000, which adds
    the noise of the drawing and estimates the same number.

    References
    ----------
    Binkowski et al., "Demystifying MMD GANs", ICLR 2018, section 4. Gretton et al., JMLR 2012, lemma 6.
    """
    return kernel_set_distance(x, y).value


def kernel_set_distance(x: ArrayLike, y: ArrayLike) -> SetDistance:
    """`kernel_distance` with the exact delete-one jackknife values of every sample, from one pass over the kernel.

    A bootstrap would count duplicates as neighbours and shift an unbiased statistic, the jackknife does not.
    """
    a, b = feature_sets(x, y, "kernel distance")
    n, m = len(a), len(b)
    within_a, within_b = _row_sums(a, a) - _diagonal(a), _row_sums(b, b) - _diagonal(b)
    across_a, across_b = _row_sums(a, b), _row_sums(b, a)
    cross = 2 * across_a.sum() / (n * m)
    value = within_a.sum() / (n * (n - 1)) + within_b.sum() / (m * (m - 1)) - cross
    return SetDistance(SCALE * float(value), _values(within_a, across_a, m), _values(within_b, across_b, n))


def kernel_estimate(x: ArrayLike, y: ArrayLike, paired: bool | None = None) -> Estimate:
    """`kernel_distance` with its jackknife interval; n is the smaller number of samples.

    ``paired``: row i of both is one scene; by default where both are equally long.
    """
    distance = kernel_set_distance(x, y)
    return distance.estimate(len(distance.of_x) == len(distance.of_y) if paired is None else paired)


def kernel_difference(first: ArrayLike, second: ArrayLike, reference: ArrayLike) -> Difference:
    """Kernel distance of ``first`` less that of ``second``, (N, D) pictures of the same scenes, to one reference."""
    return set_difference(kernel_set_distance(first, reference), kernel_set_distance(second, reference))


def _values(within: Floats, across: Floats, others: int) -> Floats:
    """(N,) jackknife values of one set: (N - 1) (mean of the statistics without sample i - statistic without i)."""
    n = len(within)
    if n < 3:
        return np.zeros(n)
    without = (within.sum() - 2 * within) / ((n - 1) * (n - 2)) - 2 * (across.sum() - across) / ((n - 1) * others)
    return np.asarray(SCALE * (n - 1) * (without.mean() - without))


def _row_sums(x: Floats, y: Floats) -> Floats:
    """(N,) sums over y of the kernel."""
    return np.concatenate([_kernel(x[i : i + BLOCK], y).sum(axis=1) for i in range(0, len(x), BLOCK)])


def _diagonal(x: Floats) -> Floats:
    return np.asarray((np.square(x).sum(axis=1) / x.shape[1] + 1) ** 3)


def _kernel(x: Floats, y: Floats) -> Floats:
    """(N, D), (M, D) -> (N, M)."""
    gram: Floats = x @ y.T
    gram /= x.shape[1]
    gram += 1
    return gram * gram * gram
