"""Frechet distance between two sets of features (the "FID" formula, whatever the features)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.metrics.bootstrap import LEAST, SEED, Estimate, group_jackknife
from evaluation.metrics.checks import Floats, matrix
from pipeline.contract.errors import CnlabError


def frechet_distance(x: ArrayLike, y: ArrayLike) -> float:
    """Squared Frechet distance between the Gaussians fitted to two sets of features.

    Parameters
    ----------
    x : (N, D) array
        Features, N >= 2.
    y : (M, D) array
        Features, M >= 2.

    Returns
    -------
    float
        |mu_x - mu_y|^2 + tr(S_x) + tr(S_y) - 2 tr((S_x S_y)^(1/2)), at least 0; covariances divide by N - 1.

    Notes
    -----
    tr((S_x S_y)^(1/2)) is the sum of the singular values of X Y^T / sqrt((N - 1)(M - 1)), where X and Y hold the
    centred features as rows. With fewer samples than dimensions that (N, M) matrix is the small one; otherwise
    the symmetric S_x^(1/2) S_y S_x^(1/2) is decomposed. No general matrix root is taken, so there is no imaginary
    part to drop.

    The estimate is biased upwards by about 1/N, by an amount that depends on the two laws: compare only values of
    equal N and M, and below N = D read it beside the kernel distance, which has no bias.

    References
    ----------
    Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", NeurIPS 2017, equation 6. Dowson and Landau, 1982.
    Bias: Chong and Forsyth, "Effectively Unbiased FID", CVPR 2020.
    """
    a, b = _pair(x, y)
    shift = a.mean(axis=0) - b.mean(axis=0)
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    n, m = len(a), len(b)
    traces = np.square(a).sum() / (n - 1) + np.square(b).sum() / (m - 1)
    if min(n, m) < a.shape[1]:
        root = _nuclear(a @ b.T) / np.sqrt((n - 1) * (m - 1))
    else:
        root = _trace_root(a.T @ a / (n - 1), b.T @ b / (m - 1))
    return max(float(shift @ shift + traces - 2 * root), 0.0)


def frechet_estimate(x: ArrayLike, y: ArrayLike, seed: int = SEED) -> Estimate:
    """`frechet_distance` with a delete-a-group jackknife interval; n is the smaller number of samples.

    The interval describes the spread over samples around the biased value; it does not move it towards the value of
    infinitely many. Sets of equal length are taken as paired (same scenes), and lose the same rows in each turn;
    otherwise each set loses its own share.
    """
    a, b = _pair(x, y)
    n, m = len(a), len(b)
    longer = max(n, m)
    if min(n, m) < LEAST:
        return Estimate(frechet_distance(a, b), None, None, min(n, m))
    if min(n, m) < a.shape[1] and longer <= 4096:  # Gram matrices of at most 128 MiB each make every turn cheap
        gram = _Gram(a, b)
        found = group_jackknife(lambda keep: gram.distance(keep[keep < n], keep[keep < m]), longer, seed)
    else:
        found = group_jackknife(lambda keep: frechet_distance(a[keep[keep < n]], b[keep[keep < m]]), longer, seed)
    return Estimate(found.value, None if found.low is None else max(found.low, 0.0), found.high, min(n, m))


class _Gram:
    """All inner products, from which the distance between any two subsets follows without the features."""

    def __init__(self, x: Floats, y: Floats) -> None:
        # The distance does not change under a common shift; without one the traces below would cancel badly.
        centre = (x.sum(axis=0) + y.sum(axis=0)) / (len(x) + len(y))
        x, y = x - centre, y - centre
        self.xx, self.xy, self.yy = x @ x.T, x @ y.T, y @ y.T

    def distance(self, i: NDArray[np.intp], j: NDArray[np.intp]) -> float:
        xx, yy, xy = self.xx[np.ix_(i, i)], self.yy[np.ix_(j, j)], self.xy[np.ix_(i, j)]
        n, m = len(i), len(j)
        shift = xx.mean() + yy.mean() - 2 * xy.mean()
        traces = (np.trace(xx) - n * xx.mean()) / (n - 1) + (np.trace(yy) - m * yy.mean()) / (m - 1)
        centred = xy - xy.mean(axis=0) - xy.mean(axis=1, keepdims=True) + xy.mean()
        return max(float(shift + traces - 2 * _nuclear(centred) / np.sqrt((n - 1) * (m - 1))), 0.0)


def _pair(x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
    a, b = matrix(x, "Frechet distance"), matrix(y, "Frechet distance")
    if a.shape[1] != b.shape[1]:
        raise CnlabError(f"Frechet distance: features have {a.shape[1]} and {b.shape[1]} dimensions")
    return a, b


def _nuclear(product: Floats) -> float:
    """Sum of singular values."""
    return float(np.linalg.svd(product, compute_uv=False).sum())


def _trace_root(s: Floats, t: Floats) -> float:
    """tr((S T)^(1/2)) of two positive semi-definite (D, D) matrices."""
    values, vectors = np.linalg.eigh(s)
    half = vectors * np.sqrt(np.clip(values, 0, None))  # S = half half^T
    inner = half.T @ t @ half  # has the eigenvalues of S T
    return float(np.sqrt(np.clip(np.linalg.eigvalsh((inner + inner.T) / 2), 0, None)).sum())
