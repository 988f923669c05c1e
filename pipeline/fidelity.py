"""Agreement of two edge maps, with a tolerance in pixels."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import distance_transform_edt

from pipeline.conditions import Condition, Params
from pipeline.contract.errors import CnlabError

THRESHOLD = 127  # maps are 8-bit: edges 255, the rest 0


def fidelity(
    pictures: Iterable[NDArray[np.uint8]],
    maps: Iterable[NDArray[np.uint8]],
    params: Iterable[Params],
    extractor: Condition,
    radii: tuple[float, ...],
) -> dict[float, NDArray[np.float64]]:
    """F1 of the edges found in each picture, (S, S, 3) uint8, against the map it was made from, by radius in pixels.

    The extractor runs with the very parameters its map was drawn with, so the real pictures score 1.
    """
    found = np.stack([_edges(extractor.extract(p, drawn)) for p, drawn in zip(pictures, params, strict=True)])
    target = np.stack([_edges(m) for m in maps])
    return {radius: edge_f1(found, target, radius) for radius in radii}


def _edges(made: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(H, W) or (H, W, 3) uint8 -> (H, W) bool."""
    return (made.max(axis=2) if made.ndim == 3 else made) > THRESHOLD


def edge_f1(found: ArrayLike, target: ArrayLike, radius: float) -> NDArray[np.float64]:
    """F1 of found edges against target edges, sample by sample.

    Parameters
    ----------
    found : (N, H, W) bool
        Edges of the pictures under test.
    target : (N, H, W) bool
        Edges that were asked for.
    radius : float
        An edge pixel counts as matched when one of the other map lies within this many pixels (Euclidean).
        0 demands the very pixel and equals the F1 (Dice) of the two sets.

    Returns
    -------
    (N,) float64 in [0, 1]
        2 P R / (P + R); 1 when both maps are empty, 0 when only one is.

    References
    ----------
    Precision and recall with a tolerance after Martin, Fowlkes and Malik, PAMI 2004, with a distance transform in
    place of their one-to-one matching. F1 at 0 px is the measure of ControlNet++ (Li et al., ECCV 2024, section 4.1).
    """
    a, b = _maps(found, "found"), _maps(target, "target")
    if a.shape != b.shape:
        raise CnlabError(f"edge F1: maps of shape {a.shape} and {b.shape} cannot be compared")
    if radius < 0:
        raise CnlabError(f"edge F1: radius {radius} is negative")
    return np.array([_f1(x, y, radius) for x, y in zip(a, b, strict=True)], dtype=np.float64)


def _maps(values: ArrayLike, name: str) -> NDArray[np.bool_]:
    array = np.asarray(values)
    if array.ndim != 3:
        raise CnlabError(f"edge F1: {name} maps must have shape (N, H, W), not {array.shape}")
    if array.dtype != np.bool_:
        raise CnlabError(f"edge F1: {name} maps are {array.dtype}, not bool; threshold them first")
    return array


def _f1(x: NDArray[np.bool_], y: NDArray[np.bool_], radius: float) -> float:
    if not x.any() or not y.any():
        return float(x.any() == y.any())
    precision = _near(y, radius)[x].mean()
    recall = _near(x, radius)[y].mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def _near(edges: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """(H, W) bool: within ``radius`` of an edge."""
    return edges if radius == 0 else np.asarray(distance_transform_edt(~edges) <= radius)
