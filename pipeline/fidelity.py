"""How well pictures obey their condition maps, and whether that can be measured: one function for every stage.

The annotator that made a map runs on the picture, with the parameters the map was drawn with, and the two maps are
compared: edges by F1 within a tolerance, everything else by structural similarity.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import distance_transform_edt

from pipeline.conditions import Condition, Params, get_condition
from pipeline.contract.errors import CnlabError
from pipeline.contract.pictures import Picture, Pictures

THRESHOLD = 127  # maps are 8-bit: edges 255, the rest 0
RADII = (0, 2)  # px: ControlNet++'s strict measure, and one that forgives a line's own width
MAIN_EDGES, MAIN_OTHER = "f1_2px", "ssim"  # the measures that say most


def annotator_of(condition: str, params: Sequence[Params], weights: str = "") -> tuple[Condition | None, str]:
    """What made the maps, ready to run on pictures; or None and the reason why fidelity cannot be measured.

    Parameters
    ----------
    condition
        Name of the map's column.
    params
        The parameters that each map was drawn with, as the dataset records them.
    weights
        Folder or hub name of the annotator's weights, where it has any and they are not its default ones.
    """
    if any(drawn.get("given") for drawn in params):
        return None, f"the {condition} maps came with the source and nothing can measure them on a picture"
    try:
        annotator = get_condition(condition, weights=weights)
        annotator.prepare()
    except CnlabError as error:
        return None, str(error)
    return annotator, ""


def main_measure(annotator: Condition) -> str:
    """Name of the measure that says most for this condition."""
    return MAIN_EDGES if annotator.binary else MAIN_OTHER


def fidelity(
    pictures: Pictures, maps: Pictures, params: Sequence[Params], annotator: Condition
) -> dict[str, NDArray[np.float64]]:
    """Agreement of each picture with a map.

    Parameters
    ----------
    pictures, maps
        (N, S, S, 3) uint8.
    params
        N sets of parameters that the maps were drawn with: the real pictures then score 1.
    annotator
        From `annotator_of`.

    Returns
    -------
    dict
        Measure -> (N,) float64, higher is better: ``f1_0px`` and ``f1_2px`` of edges, else ``ssim``.
    """
    measured = [annotator.extract(p, drawn) for p, drawn in zip(pictures, params, strict=True)]
    if annotator.binary:
        found, target = np.stack([_edges(m) for m in measured]), np.stack([_edges(m) for m in maps])
        return {f"f1_{radius}px": edge_f1(found, target, radius) for radius in RADII}
    return {"ssim": ssim(np.stack([_colour(m) for m in measured]), np.stack([_colour(m) for m in maps]))}


def other_samples(keys: Sequence[str]) -> NDArray[np.intp]:
    """Index of the sample whose map each sample gets where a wrong map is wanted: never its own.

    One cycle through all samples in the order of a hash, hence a function of the set of keys alone. Raises CnlabError
    for fewer than two samples.
    """
    if len(keys) < 2:
        raise CnlabError("another sample's map needs at least two samples")
    order = sorted(range(len(keys)), key=lambda i: hashlib.sha256(f"shuffle\0{keys[i]}".encode()).digest())
    other = np.empty(len(keys), dtype=np.intp)
    other[order] = np.roll(order, -1)
    return other


def ssim(found: Pictures, target: Pictures) -> NDArray[np.float64]:
    """Structural similarity (Wang et al., 2004) of maps (N, H, W, 3) uint8, map by map: (N,) in [-1, 1].

    torchmetrics' with its Gaussian window; ControlNet++ scores soft edges so (Li et al., ECCV 2024, section 4.1), there
    with several scales.
    """
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure

    a, b = (torch.from_numpy(x).permute(0, 3, 1, 2).double() for x in (found, target))
    return np.asarray(structural_similarity_index_measure(a, b, data_range=255.0, reduction="none"), dtype=np.float64)


def _edges(condition_map: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(H, W) or (H, W, 3) uint8 -> (H, W) bool."""
    return (condition_map.max(axis=2) if condition_map.ndim == 3 else condition_map) > THRESHOLD


def _colour(condition_map: NDArray[np.uint8]) -> Picture:
    """(H, W) or (H, W, 3) uint8 -> (H, W, 3)."""
    return condition_map if condition_map.ndim == 3 else np.repeat(condition_map[..., None], 3, axis=2)


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
