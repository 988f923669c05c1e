"""Guards shared by the metrics: what is not an array of numbers of the right shape gets one clear line."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.contract.errors import CnlabError

Floats = NDArray[np.float64]
SMALL = 64  # samples; docs/evaluation-intervals.md


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


def feature_sets(x: ArrayLike, y: ArrayLike, name: str) -> tuple[Floats, Floats]:
    """(N, D) and (M, D) float64, finite, at least two rows each; raises CnlabError otherwise."""
    a, b = matrix(x, name), matrix(y, name)
    if a.shape[1] != b.shape[1]:
        raise CnlabError(f"{name}: features have {a.shape[1]} and {b.shape[1]} dimensions")
    return a, b


def _finite(array: Floats, name: str, least: int) -> Floats:
    if len(array) < least:
        raise CnlabError(f"{name}: {len(array)} samples, at least {least} are needed")
    bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
    if len(bad):
        raise CnlabError(f"{name}: sample {bad[0]} is not finite ({len(bad)} of {len(array)} are not)")
    return array


def cautions(generated: int, reference: int, dimensions: int) -> list[str]:
    """What has to stand beside a distance between so many samples of features so wide; [] where nothing has to."""
    notes, least = [], min(generated, reference)
    if least < dimensions:
        notes.append(f"{least} samples are fewer than {dimensions} features: the Frechet distance is biased upwards")
    if least < SMALL:
        notes.append(f"n = {least}: intervals of set distances were checked from {SMALL} samples up")
    if generated != reference:
        notes.append(f"{generated} pictures against {reference}: compare only values of the same two sizes")
    return notes
