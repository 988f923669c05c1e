"""Kernel distance between two sets of features (KID, whatever the features)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from evaluation.metrics.bootstrap import LEAST, SEED, Estimate, group_jackknife
from evaluation.metrics.checks import Floats, matrix
from pipeline.contract.errors import CnlabError

SCALE = 1000.0  # reported x1000, as is usual
SUBSETS, SUBSET_SIZE = 100, 1000  # of the reference implementation
SUBSET_SEED = 2020  # torch-fidelity's default for the drawing of subsets


def kernel_distance(
    x: ArrayLike, y: ArrayLike, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE, seed: int = SUBSET_SEED
) -> float:
    """Unbiased squared maximum mean discrepancy under the kernel (x.y / D + 1)^3, times 1000.

    Parameters
    ----------
    x : (N, D) array
        Features, N >= 2.
    y : (M, D) array
        Features, M >= 2.
    subsets, subset_size, seed : int
        With more than ``subset_size`` samples in a set: mean over that many subsets drawn without replacement.
        With fewer, all samples are used at once, which is exact.

    Returns
    -------
    float
        0 on average for equal laws, hence negative about half of the time.

    References
    ----------
    Binkowski et al., "Demystifying MMD GANs", ICLR 2018, section 4. Gretton et al., JMLR 2012, lemma 6.
    """
    a, b = _pair(x, y)
    if max(len(a), len(b)) <= subset_size:
        return SCALE * _mmd2(a, b)
    rng = np.random.default_rng(seed)
    size_a, size_b = min(subset_size, len(a)), min(subset_size, len(b))
    draws = [
        _mmd2(a[rng.choice(len(a), size_a, replace=False)], b[rng.choice(len(b), size_b, replace=False)])
        for _ in range(subsets)
    ]
    return SCALE * float(np.mean(draws))


def kernel_estimate(x: ArrayLike, y: ArrayLike, seed: int = SEED) -> Estimate:
    """`kernel_distance` with a delete-a-group jackknife interval; n is the smaller number of samples.

    A bootstrap would count duplicates as neighbours and shift an unbiased statistic, the jackknife does not. Sets of
    equal length are taken as paired (same scenes).
    """
    a, b = _pair(x, y)
    n, m = len(a), len(b)
    if min(n, m) < LEAST:
        return Estimate(kernel_distance(a, b), None, None, min(n, m))
    # fewer subsets while leaving out: the mean over subsets varies little beside the samples themselves
    found = group_jackknife(
        lambda keep: kernel_distance(a[keep[keep < n]], b[keep[keep < m]], subsets=20), max(n, m), seed
    )
    value = kernel_distance(a, b)
    shift = value - found.value
    low, high = (None if limit is None else limit + shift for limit in (found.low, found.high))
    return Estimate(value, low, high, min(n, m))


def _pair(x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
    a, b = matrix(x, "kernel distance"), matrix(y, "kernel distance")
    if a.shape[1] != b.shape[1]:
        raise CnlabError(f"kernel distance: features have {a.shape[1]} and {b.shape[1]} dimensions")
    return a, b


def _kernel(x: Floats, y: Floats) -> Floats:
    """(N, D), (M, D) -> (N, M)."""
    return np.asarray((x @ y.T / x.shape[1] + 1) ** 3)


def _mmd2(x: Floats, y: Floats) -> float:
    n, m = len(x), len(y)
    xx, yy = _kernel(x, x), _kernel(y, y)
    within = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return float(within - 2 * _kernel(x, y).mean())
