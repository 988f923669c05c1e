"""Nearest neighbours in feature space: precision, recall, density, coverage; geometry of a reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from evaluation.metrics.checks import Floats, feature_sets, matrix
from evaluation.metrics.intervals import Estimate, mean_interval
from pipeline.contract.errors import CnlabError

NEIGHBOURS = 5  # Naeem et al.; the improved precision and recall of Kynkaanniemi et al. take 3
BLOCK = 1024  # rows of the distance matrix at a time


@dataclass(frozen=True)
class Manifold:
    """Per-sample values whose means are the measures; k and both sizes belong beside every number."""

    precision: Floats  # (M,) of generated samples: 1 inside the real manifold
    recall: Floats  # (N,) of real samples: 1 inside the generated manifold
    density: Floats  # (M,) of generated samples: number of real balls that hold it, over k
    coverage: Floats  # (N,) of real samples: 1 where its ball holds a generated sample
    k: int

    def estimates(self) -> dict[str, Estimate]:
        """Means with intervals over the samples that are averaged, the other set's manifold taken as given."""
        return {name: mean_interval(getattr(self, name)) for name in ("precision", "recall", "density", "coverage")}


def manifold(real: ArrayLike, generated: ArrayLike, k: int = NEIGHBOURS) -> Manifold:
    """Precision, recall, density and coverage of k-nearest-neighbour balls.

    Parameters
    ----------
    real : (N, D) array
        Features, N > k.
    generated : (M, D) array
        Features, M > k.
    k : int
        A sample's ball reaches to its k-th nearest neighbour in its own set.

    Returns
    -------
    Manifold
        Precision and recall do not reach 1 on equal laws; density and coverage do (density about 1, coverage
        1 - 2^-k). All depend on N, M and k.

    References
    ----------
    Kynkaanniemi et al., "Improved Precision and Recall Metric", NeurIPS 2019, equations 1 and 2. Naeem et al.,
    "Reliable Fidelity and Diversity Metrics for Generative Models", ICML 2020, equations 3 to 6.
    """
    x, y = feature_sets(real, generated, "precision and recall")
    if min(len(x), len(y)) <= k:
        raise CnlabError(f"precision and recall: {min(len(x), len(y))} samples, more than k = {k} are needed")
    around_x, around_y = np.square(radii(x, k)), np.square(radii(y, k))
    precision, density, nearest = np.zeros(len(y), bool), np.zeros(len(y)), np.empty(len(x))
    recall = np.empty(len(x))
    for start in range(0, len(x), BLOCK):
        part = slice(start, start + BLOCK)
        squares = squared_distances(x[part], y)
        inside = squares < around_x[part, None]
        precision |= inside.any(axis=0)
        density += inside.sum(axis=0)
        recall[part] = (squares < around_y).any(axis=1)
        nearest[part] = squares.min(axis=1)
    return Manifold(precision.astype(float), recall, density / k, (nearest < around_x).astype(float), k)


@dataclass(frozen=True)
class Geometry:
    """What a reference set can tell apart; read beside every distance to it."""

    n: int
    dimensions: int
    effective_rank: float  # exp of the entropy of the covariance's eigenvalues: 1 ... min(n - 1, D)
    spacing: float  # mean distance to the k-th neighbour over the root mean square distance of two samples
    k: int


def geometry(features: ArrayLike, k: int = NEIGHBOURS) -> Geometry:
    """Effective rank and density of (N, D) features, N > k.

    References
    ----------
    Roy and Vetterli, "The effective rank", EUSIPCO 2007, definition 2.
    """
    x = matrix(features, "geometry", least=k + 1)
    centred = x - x.mean(axis=0)
    gram = centred @ centred.T if len(x) < x.shape[1] else centred.T @ centred
    share = np.clip(np.linalg.eigvalsh(gram), 0, None)
    total = float(share.sum())
    if total == 0:
        return Geometry(len(x), x.shape[1], 1.0, 0.0, k)
    share = share[share > 0] / total
    typical = float(np.sqrt(2 * total / (len(x) - 1)))  # of two samples: twice the trace of the covariance
    rank = float(np.exp(-(share * np.log(share)).sum()))
    return Geometry(len(x), x.shape[1], rank, float(radii(x, k).mean()) / typical, k)


def radii(x: Floats, k: int) -> Floats:
    """(N,) distance of each sample to its k-th nearest neighbour in its own set, itself left out."""
    parts = [
        np.partition(squared_distances(x[start : start + BLOCK], x), k, axis=1)[:, k]
        for start in range(0, len(x), BLOCK)
    ]
    return np.asarray(np.sqrt(np.concatenate(parts)))


def squared_distances(x: Floats, y: Floats) -> Floats:
    """(N, D), (M, D) -> (N, M) squared distances, at least 0."""
    squares = np.square(x).sum(axis=1)[:, None] + np.square(y).sum(axis=1) - 2 * (x @ y.T)
    return np.asarray(np.clip(squares, 0, None))
