"""Everything that is measured on two sets of features, under the names of the results table."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from evaluation.metrics.checks import feature_sets, matrix
from evaluation.metrics.frechet import frechet_estimate
from evaluation.metrics.intervals import Estimate, mean_interval
from evaluation.metrics.kernel import kernel_estimate
from evaluation.metrics.mind import mind_estimate
from evaluation.metrics.neighbours import NEIGHBOURS, geometry, manifold, squared_distances

GEOMETRY = ("effective_rank", "spacing")
MANIFOLD = ("precision", "recall", "density", "coverage")


def set_names(distance: tuple[str, str]) -> dict[str, bool | None]:
    """Metric -> whether higher is better, for features whose distances are called ``distance`` (Frechet, kernel).

    None for the geometry of a set, which is neither good nor bad.
    """
    frechet, kernel = distance
    tail = _tail(kernel)
    higher = dict.fromkeys((f"{name}{tail}" for name in MANIFOLD), True)
    sets = dict.fromkeys((frechet, kernel, f"mind{tail}", f"copied{tail}"), False)
    return {**sets, **higher, **dict.fromkeys(f"{name}{tail}" for name in GEOMETRY)}


def set_estimates(distance: tuple[str, str], features: ArrayLike, reference: ArrayLike) -> dict[str, Estimate]:
    """Distances of (N, D) features to a reference (M, D), and how far the two cover each other (for N, M > k)."""
    frechet, kernel = distance
    tail = _tail(kernel)
    estimates = {
        frechet: frechet_estimate(features, reference),
        kernel: kernel_estimate(features, reference),
        f"mind{tail}": mind_estimate(features, reference),
    }
    if min(len(np.asarray(features)), len(np.asarray(reference))) > NEIGHBOURS:
        shares = manifold(reference, features).estimates()
        estimates |= {f"{name}{tail}": estimate for name, estimate in shares.items()}
    return estimates


def geometry_estimates(distance: tuple[str, str], reference: ArrayLike) -> dict[str, Estimate]:
    """What (N, D) reference features can tell apart (`Geometry`), to be read beside every distance to them."""
    x, tail = np.asarray(reference), _tail(distance[1])
    if len(x) <= NEIGHBOURS:
        return {}
    facts = geometry(x)
    return {f"{name}{tail}": Estimate(getattr(facts, name), None, None, len(x)) for name in GEOMETRY}


def copied_share(features: ArrayLike, training: ArrayLike, unseen: ArrayLike) -> Estimate:
    """Share of pictures nearer to a training sample than to any unseen one; .5 where nothing is copied.

    Parameters
    ----------
    features : (N, D) array
        Of pictures made from N held-out samples.
    training : (M, D) array
        Of the samples the net was trained on.
    unseen : (N, D) array
        Of these held-out samples. Row i gave picture i its map, so it is left out for that picture, and both pools are
        cut to the same min(M, N - 1) samples.

    References
    ----------
    Meehan, Chaudhuri and Dasgupta, "A Non-Parametric Test to Detect Data-Copying", AISTATS 2020, section 3; with pools
    of one size, so that either holds the nearest sample equally often whatever the law. Ties count half.
    """
    x = matrix(features, "copying")
    near, far = feature_sets(training, unseen, "copying")
    pool = min(len(near), len(far) - 1)
    trained = squared_distances(x, near[:pool]).min(axis=1)
    apart = squared_distances(x, far)
    np.fill_diagonal(apart, np.inf)
    order = (np.arange(len(x))[:, None] + 1 + np.arange(pool)) % len(far)  # the pool that follows each sample
    new = np.take_along_axis(apart, order, axis=1).min(axis=1)
    return mean_interval((trained < new) + 0.5 * (trained == new))


def _tail(kernel: str) -> str:
    """``kid_lite0`` -> ``_lite0``; ``kid`` -> ``_inception``."""
    return kernel.removeprefix("kid") or "_inception"
