"""Health of condition maps: the right size, not empty, not full, not inverted, and of this very image."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.conditions import Condition
from pipeline.conditions.base import Given
from pipeline.sources.base import Rejected

CELLS = 48  # a side, for comparing structure: fine enough for a shift of 8 pixels in 128
NEAR = 1.5  # cells: a better fit that close by is no evidence of a shift


def screen_map(
    image: NDArray[np.uint8], made: NDArray[np.uint8], condition: Condition, limits: Mapping[str, float]
) -> None:
    """Raise `Rejected` with map_size, map_empty, map_saturated, map_inverted or map_misaligned."""
    if made.shape[:2] != image.shape[:2]:
        raise Rejected(
            "map_size", f"{condition.name}: {made.shape[1]}x{made.shape[0]}, image {image.shape[1]}x{image.shape[0]}"
        )
    if condition.binary:
        lit = float((made > 127).mean())
        if lit < limits["min_map_share"]:
            raise Rejected("map_empty", f"{condition.name}: {lit:.5f} lit")
        if lit > limits["max_map_share"]:
            raise Rejected("map_saturated", f"{condition.name}: {lit:.3f} lit")
    elif limits["min_map_share"] > 0 and int(np.ptp(made)) == 0:
        raise Rejected("map_empty", f"{condition.name}: one value everywhere")
    if condition.light_on_dark and (light := float((made > 127).mean())) > limits["max_light"]:
        raise Rejected("map_inverted", f"{condition.name}: {light:.2f} of it is light")
    if isinstance(condition, Given) and condition.aligned:  # an extracted map is of this image by construction
        _check_fit(image, made, condition.name, limits)


def _check_fit(image: NDArray[np.uint8], made: NDArray[np.uint8], name: str, limits: Mapping[str, float]) -> None:
    """A given map that fits the image better when moved or mirrored, or not at all, belongs elsewhere."""
    here, elsewhere, how = alignment(image, made)
    if elsewhere - here > limits["max_shift_gain"]:
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


def alignment(image: NDArray[np.uint8], made: NDArray[np.uint8]) -> tuple[float, float, str]:
    """(correlation of structure in place, the best elsewhere, where that is): shifts of up to a quarter, mirrors."""
    a, b = structure(image), structure(made)
    here = float((a * b).sum())
    offsets = np.fft.fftfreq(CELLS, 1 / CELLS)
    far = np.hypot(offsets[:, None], offsets[None])
    best, how = -1.0, ""
    for name, other in (("moved", b), ("mirrored", b[:, ::-1]), ("upside down", b[::-1]), ("turned", b[::-1, ::-1])):
        surface = np.fft.irfft2(np.fft.rfft2(a) * np.conj(np.fft.rfft2(other)), s=a.shape)
        allowed = far <= CELLS / 4
        if name == "moved":
            allowed &= far > NEAR
        value = float(np.where(allowed, surface, -1.0).max())
        if value > best:
            best, how = value, name
    return here, best, how
