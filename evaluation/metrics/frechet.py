"""Frechet distance between two sets of features (the "FID" formula, whatever the features)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from evaluation.metrics.checks import Floats, feature_sets
from evaluation.metrics.intervals import Difference, Estimate, SetDistance, set_difference

NEGLIGIBLE = 1e-12  # of the largest eigenvalue: below, a direction has no variance and no inverse


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
    return frechet_set_distance(x, y).value


def frechet_set_distance(x: ArrayLike, y: ArrayLike) -> SetDistance:
    """`frechet_distance` with the infinitesimal jackknife values of every sample, at the cost of one decomposition.

    A sample's value is the derivative of the distance by that sample's weight in its set. With f the centred
    feature, s the shift of the means and r the derivative of the root, it is 2 s.f + f.f - 2 r (for y: -2 s.f ...).
    Nothing is deleted in turns, so the bias of turns of unequal n is no matter (it made intervals 3.2 times too wide).

    References
    ----------
    Jaeckel, "The infinitesimal jackknife", Bell Laboratories 1972. Derivative of the root: Bhatia, Jain and Lim,
    "On the Bures-Wasserstein distance between positive definite matrices", Expositiones Mathematicae 2019, section 3.
    """
    a, b = feature_sets(x, y, "Frechet distance")
    n, m = len(a), len(b)
    shift = a.mean(axis=0) - b.mean(axis=0)
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    length_a, length_b = np.square(a).sum(axis=1), np.square(b).sum(axis=1)
    root, root_a, root_b = (_by_samples if min(n, m) < a.shape[1] else _by_dimensions)(a, b)
    value = shift @ shift + length_a.sum() / (n - 1) + length_b.sum() / (m - 1) - 2 * root
    of_a, of_b = 2 * a @ shift + length_a - 2 * root_a, -2 * b @ shift + length_b - 2 * root_b
    return SetDistance(max(float(value), 0.0), of_a - of_a.mean(), of_b - of_b.mean())


def frechet_estimate(x: ArrayLike, y: ArrayLike, paired: bool | None = None) -> Estimate:
    """`frechet_distance` with its jackknife interval; n is the smaller number of samples.

    The interval describes the spread over samples around the biased value; it does not move it towards the value of
    infinitely many. ``paired``: row i of both is one scene; by default where both are equally long.
    """
    distance = frechet_set_distance(x, y)
    return distance.estimate(len(distance.of_x) == len(distance.of_y) if paired is None else paired, least=0.0)


def frechet_difference(first: ArrayLike, second: ArrayLike, reference: ArrayLike) -> Difference:
    """Frechet distance of ``first`` less that of ``second``, (N, D) pictures of the same scenes, to one reference.

    Both have the same N, so most of their bias drops out of the difference.
    """
    return set_difference(frechet_set_distance(first, reference), frechet_set_distance(second, reference))


def _by_samples(a: Floats, b: Floats) -> tuple[float, Floats, Floats]:
    """Root and its derivatives by the weights of a (N,) and b (M,), from the (N, M) matrix of inner products.

    With M = U s V^T scaled by the weights' roots, the derivative by weight i is N (U s U^T)_ii / 2.
    """
    left, values, right = np.linalg.svd(a @ b.T, full_matrices=False)
    values /= np.sqrt((len(a) - 1) * (len(b) - 1))
    return float(values.sum()), np.square(left) @ values * len(a) / 2, np.square(right.T) @ values * len(b) / 2


def _by_dimensions(a: Floats, b: Floats) -> tuple[float, Floats, Floats]:
    """The same from the (D, D) covariances S and T, with R = (S^1/2 T S^1/2)^1/2.

    The derivative by S is S^-1/2 R S^-1/2 / 2, by T it is S^1/2 R^-1 S^1/2 / 2.
    """
    values, vectors = np.linalg.eigh(a.T @ a / (len(a) - 1))
    scaled = vectors * np.sqrt(np.clip(values, 0, None))  # S^1/2 turned by the eigenvectors: no zero is lost
    inner = scaled.T @ (b.T @ b / (len(b) - 1)) @ scaled
    squares, turned = np.linalg.eigh((inner + inner.T) / 2)
    turned = vectors @ turned
    half, inverse = _power(values, vectors, 0.5), _power(values, vectors, -0.5)
    by_s = inverse @ _power(squares, turned, 0.5) @ inverse
    by_t = half @ _power(squares, turned, -0.5) @ half
    root = float(np.sqrt(np.clip(squares, 0, None)).sum())
    return root, ((a @ by_s) * a).sum(axis=1) / 2, ((b @ by_t) * b).sum(axis=1) / 2


def _power(values: Floats, vectors: Floats, exponent: float) -> Floats:
    """Symmetric power of a positive semi-definite matrix; directions without variance stay 0."""
    there = values > NEGLIGIBLE * values[-1]
    powers = np.zeros_like(values)
    powers[there] = values[there] ** exponent
    return np.asarray((vectors * powers) @ vectors.T)
