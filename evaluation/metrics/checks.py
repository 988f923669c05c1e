"""Guards shared by the metrics: what is not an array of numbers of the right shape gets one clear line."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.contract.errors import CnlabError

Floats = NDArray[np.float64]


def matrix(values: ArrayLike, name: str, least: int = 2) -> Floats:
    """(N, D) float64, finite, N >= ``least``; raises CnlabError otherwise."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] == 0:
        raise CnlabError(f"{name}: expected an array of shape (N, D), got {array.shape}")
    return _finite(array, name, least)


def vector(values: ArrayLike, name: str, least: int = 1) -> Floats:
    """(N,) float64, finite, N >= ``least``; raises CnlabError otherwise."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise CnlabError(f"{name}: expected one number a sample, got an array of shape {array.shape}")
    return _finite(array, name, least)


def same_shape(first: Floats, second: Floats, names: str) -> None:
    """Raises CnlabError unless both have one shape."""
    if first.shape != second.shape:
        raise CnlabError(
            f"{names}: shapes {first.shape} and {second.shape} differ; they must be paired sample by sample"
        )


def _finite(array: Floats, name: str, least: int) -> Floats:
    if len(array) < least:
        raise CnlabError(f"{name}: {len(array)} samples, at least {least} are needed")
    bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
    if len(bad):
        raise CnlabError(f"{name}: sample {bad[0]} is not finite ({len(bad)} of {len(array)} are not)")
    return array
