"""Health of condition maps: the right size, not empty, not full, not inverted, and of this very image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.conditions import Condition
from pipeline.conditions.base import SourceMap
from pipeline.sources.base import Rejected

CELLS = 48  # a side, for comparing structure: fine enough for a shift of 8 pixels in 128
NEAR = 1.5  # cells: a better fit that close by is no evidence of a shift
Turn = Callable[[NDArray[Any]], NDArray[Any]]
UPRIGHT: dict[str, Turn] = {
    "moved": lambda cells: cells,
    "mirrored": lambda cells: cells[:, ::-1],
    "upside down": lambda cells: cells[::-1],
    "turned": lambda cells: cells[::-1, ::-1],
}
QUARTERS: dict[str, Turn] = {
    "turned a quarter to the left": np.rot90,
    "turned a quarter to the right": lambda cells: np.rot90(cells, -1),
    "mirrored along a diagonal": np.transpose,
    "mirrored along the other diagonal": lambda cells: np.rot90(cells, 2).T,
}


def screen_map(
    image: NDArray[np.uint8], picture: NDArray[np.uint8], condition: Condition, limits: Mapping[str, float]
) -> None:
    """Raise `Rejected` with map_size, map_empty, map_flat, map_saturated, map_inverted or map_misaligned."""
    if picture.shape[:2] != image.shape[:2]:
        raise Rejected(
            "map_size",
            f"{condition.name}: {picture.shape[1]}x{picture.shape[0]}, image {image.shape[1]}x{image.shape[0]}",
        )
    if condition.binary:
        lit = float((picture > 127).mean())
        if lit < limits["min_map_share"]:
            raise Rejected("map_empty", f"{condition.name}: {lit:.5f} lit")
        if lit > limits["max_map_share"]:
            raise Rejected("map_saturated", f"{condition.name}: {lit:.3f} lit")
    elif limits["min_map_share"] > 0 and int(np.ptp(picture)) == 0:
        raise Rejected("map_empty", f"{condition.name}: one value everywhere")
    elif (levels := map_range(picture)) < limits["min_map_range"]:
        raise Rejected("map_flat", f"{condition.name}: its values lie within {levels} of 255 levels")
    if condition.light_on_dark and (light := float((picture > 127).mean())) > limits["max_light"]:
        raise Rejected("map_inverted", f"{condition.name}: {light:.2f} of it is light")
    if isinstance(condition, SourceMap) and condition.aligned:  # an extracted map is of this image by construction
        _check_fit(image, picture, condition.name, limits)


def map_range(picture: NDArray[np.uint8]) -> int:
    """Levels between the least and the largest value of the channel that has most, 0 ... 255."""
    return int(np.ptp(picture, axis=(0, 1)).max())


def _check_fit(image: NDArray[np.uint8], picture: NDArray[np.uint8], name: str, limits: Mapping[str, float]) -> None:
    """A given map that fits the image better when moved or mirrored, or not at all, belongs elsewhere."""
    for turns, gain in ((UPRIGHT, "max_shift_gain"), (QUARTERS, "max_turn_gain")):
        here, elsewhere, how = alignment(image, picture, turns)
        if elsewhere - here > limits[gain]:
            raise Rejected("map_misaligned", f"{name}: correlation {here:.2f}, {how} {elsewhere:.2f}")
    if here < limits["min_map_fit"]:
        raise Rejected("map_misaligned", f"{name}: correlation {here:.2f}, another image's map?")


def structure(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Where something changes: gradient magnitude, capped so that a few strong edges do not decide, on 48 x 48 cells.

    (H, W) or (H, W, 3) uint8 -> (48, 48) float32 with mean 0 and norm 1; zeros for a picture without structure.
    """
    planes = picture.astype(np.float32)
    dx, dy = cv2.Sobel(planes, cv2.CV_32F, 1, 0), cv2.Sobel(planes, cv2.CV_32F, 0, 1)
    magnitude = np.sqrt(dx * dx + dy * dy)
    if magnitude.ndim == 3:
        magnitude = magnitude.max(2)
    capped = np.minimum(magnitude, 4 * float(magnitude.mean()) + 1e-6)
    cells = np.asarray(cv2.resize(capped, (CELLS, CELLS), interpolation=cv2.INTER_AREA), np.float32)
    cells = cells - cells.mean()
    norm = float(np.linalg.norm(cells))
    return cells / norm if norm > 1e-3 else np.zeros_like(cells)


def alignment(
    image: NDArray[np.uint8], picture: NDArray[np.uint8], turns: Mapping[str, Turn] = UPRIGHT
) -> tuple[float, float, str]:
    """(correlation of structure in place, the best elsewhere, where that is): turns, shifted by up to a quarter."""
    a, b = structure(image), structure(picture)
    here = float((a * b).sum())
    offsets = np.fft.fftfreq(CELLS, 1 / CELLS)
    far = np.hypot(offsets[:, None], offsets[None])
    best, how = -1.0, ""
    for name, turn in turns.items():
        surface = np.fft.irfft2(np.fft.rfft2(a) * np.conj(np.fft.rfft2(turn(b))), s=a.shape)
        allowed = far <= CELLS / 4
        if name == "moved":
            allowed &= far > NEAR
        value = float(np.where(allowed, surface, -1.0).max())
        if value > best:
            best, how = value, name
    return here, best, how
