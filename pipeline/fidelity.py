"""How well pictures obey their condition maps, and whether that can be measured: one function for every stage.

The annotator that made a map runs on the picture, with the parameters the map was drawn with, and the two maps are
compared by the measures of their kind (`measures_of`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import distance_transform_edt

from pipeline.conditions import Condition, Params, get_condition
from pipeline.conditions.base import safe_quantise
from pipeline.contract.errors import CnlabError
from pipeline.contract.pictures import Picture, Pictures

Scores = NDArray[np.float64]  # (N,)
#: Names of measures and the function of (measured, target) maps, (N, S, S, 3) uint8, that returns one array a name.
Family = tuple[tuple[str, ...], Callable[[Pictures, Pictures], Iterable[Scores]]]
THRESHOLD = 127  # maps are 8-bit: edges 255, the rest 0
DIAGONAL = 0.0075  # of the picture's diagonal: within so much an edge is matched (BSDS; Martin et al., PAMI 2004)
MS_SSIM_SIDE = 161  # pixels: five scales of an 11-pixel window need more than 10 x 16
PSNR_MOST = 100.0  # dB, of equal maps, whose ratio is infinite
LOWER_IS_BETTER = frozenset({"rmse", "scale_invariant", "angle", "lab_error", "colour_distance"})


def annotator_of(
    condition: str, params: Sequence[Params], weights: str = "", evaluator: str = ""
) -> tuple[Condition | None, str]:
    """What made the maps, ready to run on pictures; or None and the reason why fidelity cannot be measured.

    Parameters
    ----------
    condition
        Name of the map's column.
    params
        The parameters that each map was drawn with, as the dataset records them.
    weights
        Folder or hub name of the annotator's weights, where it has any and they are not its default ones.
    evaluator
        Name of another annotator to run on pictures, such as a trained one for exact maps that came with the source.
    """
    if not evaluator and any(recorded.get("given") for recorded in params):
        return None, f"the {condition} maps came with the source and no annotator for pictures is named"
    try:
        annotator = get_condition(evaluator or condition, weights=weights)
        annotator.prepare()
    except CnlabError as error:
        return None, str(error)
    return annotator, ""


def fidelity(
    pictures: Pictures,
    maps: Pictures,
    params: Sequence[Params],
    annotator: Condition,
    only: Collection[str] = (),
) -> dict[str, Scores]:
    """Agreement of each picture with a map.

    Parameters
    ----------
    pictures, maps
        (N, S, S, 3) uint8.
    params
        N sets of parameters that the maps were drawn with: the real pictures then obey them perfectly. An annotator
        that did not make the maps gets parameters of its own.
    annotator
        From `annotator_of`.
    only
        Names of the measures to compute; by default all of the annotator's (`measures_of`).

    Returns
    -------
    dict
        Measure -> (N,) float64; higher is better but for `LOWER_IS_BETTER`.
    """
    target = np.stack([_colour(m) for m in maps])
    measured = np.stack(
        [_colour(_extract(annotator, picture, recorded)) for picture, recorded in zip(pictures, params, strict=True)]
    )
    scores: dict[str, Scores] = {}
    for names, measure in _families(annotator, target.shape[1]):
        if not only or set(names) & set(only):
            scores |= zip(names, measure(measured, target), strict=True)
    return {name: values for name, values in scores.items() if not only or name in only}


def score(pictures: Pictures, maps: Pictures, params: Sequence[Params], annotator: Condition) -> Scores:
    """The main measure (N,), turned so that higher is better: negative where it is an error."""
    name = main_measure(annotator)
    values = fidelity(pictures, maps, params, annotator, (name,))[name]
    return -values if name in LOWER_IS_BETTER else values


def _extract(annotator: Condition, picture: Picture, recorded: Params) -> NDArray[np.uint8]:
    """The map of a picture, drawn and coarsened as its target was; an annotator of other maps draws its own way."""
    own = annotator.draw(np.random.default_rng(0))
    measured = annotator.extract(picture, recorded if set(own) <= set(recorded) else own)
    return safe_quantise(measured) if recorded.get("safe") and annotator.soft else measured


def main_measure(annotator: Condition) -> str:
    """Name of the measure that says most for this condition."""
    return "f1_2px" if annotator.binary else MAIN.get(annotator.name, "ssim")


def measures_of(annotator: Condition, side: int = MS_SSIM_SIDE) -> list[str]:
    """Names of all measures of a condition for maps of ``side`` pixels."""
    return [name for names, _ in _families(annotator, side) for name in names]


def _families(annotator: Condition, side: int) -> tuple[Family, ...]:
    if annotator.binary:
        return EDGES
    if annotator.name in BY_NAME:
        return BY_NAME[annotator.name]
    return tuple(family for family in SOFT if side >= MS_SSIM_SIDE or family[0] != ("ms_ssim",))


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


def ssim(measured: Pictures, target: Pictures) -> Scores:
    """Structural similarity (Wang et al., 2004) of maps (N, H, W, 3) uint8, map by map: (N,) in [-1, 1].

    torchmetrics' with its Gaussian window.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    a, b = _tensors(measured, target)
    return _array(structural_similarity_index_measure(a, b, data_range=255.0, reduction="none"))


def ms_ssim(measured: Pictures, target: Pictures) -> Scores:
    """SSIM at five scales (Wang et al., 2003), ControlNet++'s measure of soft edges and line art; torchmetrics'."""
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    a, b = _tensors(measured, target)
    return _array(multiscale_structural_similarity_index_measure(a, b, data_range=255.0, reduction="none"))


def psnr(measured: Pictures, target: Pictures) -> Scores:
    """Peak signal-to-noise ratio in dB, at most 100."""
    error = np.square(measured.astype(np.float64) - target).reshape(len(target), -1).mean(1)
    least = 255.0**2 / 10 ** (PSNR_MOST / 10)
    return np.asarray(10 * np.log10(255.0**2 / np.maximum(error, least)))


def rmse(measured: Pictures, target: Pictures) -> Scores:
    """Root mean squared error in 8-bit units, as ControlNet++ reports depth."""
    return np.asarray(np.sqrt(np.square(measured.astype(np.float64) - target).reshape(len(target), -1).mean(1)))


def scale_invariant(measured: Pictures, target: Pictures) -> Scores:
    """Standard deviation of the difference of logarithms: blind to a common factor (Eigen et al., NIPS 2014, eq. 1).

    Of 8-bit maps, so 1 is added before the logarithm.
    """
    difference = np.log1p(measured.astype(np.float64)) - np.log1p(target.astype(np.float64))
    return np.asarray(difference.reshape(len(target), -1).std(1))


def angle(measured: Pictures, target: Pictures) -> Scores:
    """Mean angle between normals in degrees; a normal is map / 127.5 - 1, brought to length 1."""
    a, b = (_unit(m.astype(np.float64) / 127.5 - 1) for m in (measured, target))
    cosine = np.clip((a * b).sum(-1), -1, 1)
    return np.asarray(np.degrees(np.arccos(cosine)).reshape(len(target), -1).mean(1))


def miou(measured: Pictures, target: Pictures) -> Scores:
    """Intersection over union of each colour of either map, mean over these colours."""
    a, b = (_classes(m) for m in (measured, target))
    return np.array([_iou(x, y) for x, y in zip(a, b, strict=True)])


def lab_error(measured: Pictures, target: Pictures) -> Scores:
    """Mean distance in CIE Lab (Delta E, 1976)."""
    a, b = _lab(measured), _lab(target)
    return np.asarray(np.linalg.norm(a - b, axis=-1).reshape(len(target), -1).mean(1))


def colour_distance(measured: Pictures, target: Pictures) -> Scores:
    """Distance of colour statistics where places say nothing: 1-Wasserstein in each channel of Lab, summed."""
    a, b = (np.sort(_lab(m).reshape(len(m), -1, 3), axis=1) for m in (measured, target))
    return np.asarray(np.abs(a - b).mean(1).sum(-1))


def kept_rmse(measured: Pictures, target: Pictures) -> Scores:
    """Root mean squared error in 8-bit units over the part that an inpainting map keeps (not (0, 0, 0))."""
    visible = np.asarray(target.any(axis=-1))
    error = np.asarray(np.square(measured.astype(np.float64) - target).mean(-1))
    count = np.maximum(visible.reshape(len(visible), -1).sum(1), 1)
    return np.asarray(np.sqrt((error * visible).reshape(len(visible), -1).sum(1) / count))


def edge_f1(measured: ArrayLike, target: ArrayLike, radius: float) -> Scores:
    """F1 of measured edges against target edges, sample by sample.

    Parameters
    ----------
    measured : (N, H, W) bool
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
    place of their one-to-one matching (`matched_edges`). F1 at 0 px is the measure of ControlNet++ (Li et al., ECCV
    2024, section 4.1).
    """
    a, b = _maps(measured, "measured"), _maps(target, "target")
    if a.shape != b.shape:
        raise CnlabError(f"edge F1: maps of shape {a.shape} and {b.shape} cannot be compared")
    if radius < 0:
        raise CnlabError(f"edge F1: radius {radius} is negative")
    return np.array([_f1(x, y, radius) for x, y in zip(a, b, strict=True)], dtype=np.float64)


def matched_edges(measured: NDArray[np.bool_], target: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(N, H, W) bool twice -> (3, N): precision, recall and F1, each edge pixel matched with at most one of the other.

    The largest one-to-one matching of pixels within .75 % of the diagonal (Hopcroft and Karp, 1973). BSDS takes the
    cheapest matching (Martin, Fowlkes and Malik, PAMI 2004, appendix), whose size it also counts. Both maps empty: 1;
    one of them: 0.
    """
    return np.array([_matched(x, y) for x, y in zip(measured, target, strict=True)]).T


def _matched(x: NDArray[np.bool_], y: NDArray[np.bool_]) -> list[float]:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import maximum_bipartite_matching
    from scipy.spatial import KDTree

    p, q = np.argwhere(x), np.argwhere(y)
    if not len(p) or not len(q):
        return [float(len(p) == len(q))] * 3
    radius = DIAGONAL * float(np.hypot(*x.shape))
    near = KDTree(p).sparse_distance_matrix(KDTree(q), max(radius, 1e-9), output_type="coo_matrix")
    graph = coo_array((np.ones(near.nnz, np.int8), (near.row, near.col)), shape=(len(p), len(q))).tocsr()
    count = int((maximum_bipartite_matching(graph, perm_type="column") >= 0).sum())
    return [count / len(p), count / len(q), 2 * count / (len(p) + len(q))]


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


def _colour(condition_map: NDArray[np.uint8]) -> Picture:
    """(H, W) or (H, W, 3) uint8 -> (H, W, 3)."""
    return condition_map if condition_map.ndim == 3 else np.repeat(condition_map[..., None], 3, axis=2)


def _tensors(*maps: Pictures) -> tuple[Any, ...]:
    import torch

    return tuple(torch.from_numpy(m).permute(0, 3, 1, 2).double() for m in maps)


def _array(values: object) -> Scores:
    return np.atleast_1d(np.asarray(values, dtype=np.float64))


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9))


def _lab(maps: Pictures) -> NDArray[np.float64]:
    from skimage.color import rgb2lab

    return np.asarray(rgb2lab(maps / 255.0))


def _classes(maps: Pictures) -> NDArray[np.int64]:
    """(N, H, W, 3) uint8 -> (N, H, W): one number a colour."""
    return np.asarray(maps.astype(np.int64) @ np.array([65536, 256, 1]))


def _iou(x: NDArray[np.int64], y: NDArray[np.int64]) -> float:
    union = np.union1d(x, y)
    return float(np.mean([((x == c) & (y == c)).sum() / ((x == c) | (y == c)).sum() for c in union]))


def _single(measure: Callable[[Pictures, Pictures], Scores]) -> Callable[[Pictures, Pictures], list[Scores]]:
    return lambda measured, target: [measure(measured, target)]


def _of_edges(
    measure: Callable[[NDArray[np.bool_], NDArray[np.bool_]], Iterable[Scores]],
) -> Callable[[Pictures, Pictures], Iterable[Scores]]:
    return lambda measured, target: measure(measured.max(axis=-1) > THRESHOLD, target.max(axis=-1) > THRESHOLD)


EDGES: tuple[Family, ...] = (
    (("f1_0px", "f1_2px"), _of_edges(lambda a, b: [edge_f1(a, b, 0), edge_f1(a, b, 2)])),
    (("precision", "recall", "f1"), _of_edges(matched_edges)),
)
SOFT: tuple[Family, ...] = ((("ssim",), _single(ssim)), (("ms_ssim",), _single(ms_ssim)), (("psnr",), _single(psnr)))
#: Conditions whose maps mean more than grey values; all others are compared as pictures are (`SOFT`).
BY_NAME: dict[str, tuple[Family, ...]] = {
    "depth": ((("rmse",), _single(rmse)), (("scale_invariant",), _single(scale_invariant))),
    "normal": ((("angle",), _single(angle)),),
    "normalbae": ((("angle",), _single(angle)),),
    "segment": ((("miou",), _single(miou)),),
    "palette": ((("lab_error",), _single(lab_error)),),
    "inpaint": ((("rmse",), _single(kept_rmse)),),
    "shuffle": ((("colour_distance",), _single(colour_distance)),),
}
MAIN = {name: families[0][0][0] for name, families in BY_NAME.items()}
