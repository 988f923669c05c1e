"""Monge distance between two sets of features (MIND, whatever the features): for sets of 1,000 to 5,000."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.metrics.checks import Floats, feature_sets
from evaluation.metrics.intervals import Difference, Estimate, SetDistance, set_difference

PROJECTIONS, PROJECTION_SEED = 1000, 2020
SCALE = 3.0  # times D: the paper's alpha


def mind_distance(x: ArrayLike, y: ArrayLike, projections: int = PROJECTIONS, seed: int = PROJECTION_SEED) -> float:
    """Sliced squared 2-Wasserstein distance, times 3 D.

    Parameters
    ----------
    x : (N, D) array
        Features, N >= 2.
    y : (M, D) array
        Features, M >= 2.
    projections, seed : int
        Random directions of length 1, and their seed.

    Returns
    -------
    float
        3 D times the mean over directions of the squared distance between quantile functions; at least 0.

    Notes
    -----
    Sets of unequal size are compared by their whole quantile functions; the reference implementation draws a part of
    the larger set instead. Biased upwards by about 1/N, less than the Frechet distance, which estimates covariances.

    References
    ----------
    Berthet et al., "MIND: Monge Inception Distance for Generative Models Evaluation", arXiv 2605.06797.
    """
    return mind_set_distance(x, y, projections, seed).value


def mind_set_distance(
    x: ArrayLike, y: ArrayLike, projections: int = PROJECTIONS, seed: int = PROJECTION_SEED
) -> SetDistance:
    """`mind_distance` with the infinitesimal jackknife values of every sample.

    The derivative by a sample's weight is Kantorovich's potential at it, in one dimension the integral of 2 (t - T(t))
    along the sorted samples, T being the monotone map to the other set (Santambrogio, "Optimal Transport for Applied
    Mathematicians", 2015, proposition 7.17).
    """
    a, b = feature_sets(x, y, "MIND")
    directions = np.random.default_rng(seed).normal(size=(projections, a.shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    levels, i, j = _levels(len(a), len(b))
    value, of_a, of_b = 0.0, np.zeros(len(a)), np.zeros(len(b))
    for direction in directions:
        p, q = a @ direction, b @ direction
        order_p, order_q = np.argsort(p), np.argsort(q)
        p, q = p[order_p], q[order_q]
        value += float(levels @ np.square(p[i] - q[j]))
        of_a[order_p] += _potential(p, _matched(levels, i, q[j], len(a)))
        of_b[order_q] += _potential(q, _matched(levels, j, p[i], len(b)))
    scale = SCALE * a.shape[1] / projections
    return SetDistance(scale * value, scale * (of_a - of_a.mean()), scale * (of_b - of_b.mean()))


def mind_estimate(x: ArrayLike, y: ArrayLike, paired: bool | None = None) -> Estimate:
    """`mind_distance` with its jackknife interval; n is the smaller number of samples."""
    distance = mind_set_distance(x, y)
    return distance.estimate(len(distance.of_x) == len(distance.of_y) if paired is None else paired, least=0.0)


def mind_difference(first: ArrayLike, second: ArrayLike, reference: ArrayLike) -> Difference:
    """MIND of ``first`` less that of ``second``, (N, D) pictures of the same scenes, to one reference."""
    return set_difference(mind_set_distance(first, reference), mind_set_distance(second, reference))


def _levels(n: int, m: int) -> tuple[Floats, NDArray[np.intp], NDArray[np.intp]]:
    """Pieces on which both quantile functions are constant: lengths, and index of each piece in either sorted set."""
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)  # in units of 1 / (n m), exact
    starts = np.concatenate([[0], ends[:-1]])
    return (ends - starts) / (n * m), starts // m, starts // n


def _matched(levels: Floats, own: NDArray[np.intp], other: Floats, n: int) -> Floats:
    """(n,) mean of the other set's values that each sorted sample is moved to."""
    return np.asarray(np.bincount(own, levels * other, n) * n)


def _potential(values: Floats, targets: Floats) -> Floats:
    """(n,) integral of 2 (t - T(t)) from the first sorted sample on, by the trapezoidal rule."""
    slope = values - targets
    return np.concatenate([[0.0], np.cumsum((slope[1:] + slope[:-1]) * np.diff(values))])
