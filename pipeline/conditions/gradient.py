"""Colour gradients and their ridges, shared by the soft and the scribbled edges."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.conditions.base import Picture

Plane = NDArray[np.float32]

# The angle pi/8 splits directions into four sectors: two neighbours along x, y or one of the diagonals (Canny, 1986)
TAN_22_5 = np.float32(np.tan(np.pi / 8))


def smooth(image: NDArray[Any], sigma: float) -> NDArray[np.float32]:
    """Gaussian blur, sigma in pixels. (H, W, C) or (H, W) uint8 -> the same shape, float32 in [0, 255]."""
    return np.asarray(cv2.GaussianBlur(image.astype(np.float32), (0, 0), sigma), dtype=np.float32)


def colour_gradient(image: Picture, sigma: float) -> tuple[Plane, Plane]:
    """Gradient of the colour channel that changes most, at scale ``sigma`` (pixels), in grey levels a pixel.

    The choice of channel is Canny's in OpenCV and that of structured forests (Dollar and Zitnick, 2013).
    (H, W, 3) uint8 -> (dx, dy), each (H, W) float32
    """
    soft = smooth(image, sigma)
    dx, dy = cv2.Sobel(soft, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(soft, cv2.CV_32F, 0, 1, scale=1 / 8)
    best_x, best_y, best = dx[..., 0], dy[..., 0], dx[..., 0] ** 2 + dy[..., 0] ** 2
    for channel in (1, 2):
        x, y = dx[..., channel], dy[..., channel]
        power = x**2 + y**2
        more = power > best
        best_x, best_y = np.where(more, x, best_x), np.where(more, y, best_y)
        best = np.where(more, power, best)
    return np.asarray(best_x, dtype=np.float32), np.asarray(best_y, dtype=np.float32)


def contrast(dx: Plane, dy: Plane, sigma: float) -> Plane:
    """Grey levels of the step whose gradient at scale ``sigma`` is (dx, dy), whatever the scale.

    A step of c levels blurred by s has the slope c / (sqrt(2 pi) s); Sobel's slope of c / 2 at an unblurred step adds
    sqrt(2 / pi) = 0.8 pixels to s in quadrature. (H, W) float32 -> (H, W) float32
    """
    total = np.float32(np.sqrt(2 * np.pi * sigma**2 + 4))
    return np.asarray(cv2.magnitude(dx, dy) * total, dtype=np.float32)


def ridge(dx: Plane, dy: Plane, magnitude: Plane) -> NDArray[np.bool_]:
    """Where the magnitude is above one neighbour along the gradient and not below the other (Canny, 1986).

    Of two equal pixels on either side of a step it is one. All (H, W) float32 -> (H, W) bool
    """
    height, width = magnitude.shape
    padded = cv2.copyMakeBorder(magnitude, 1, 1, 1, 1, cv2.BORDER_REPLICATE)

    def peak(right: int, down: int) -> NDArray[np.bool_]:
        """Compare with the neighbours that lie (right, down) and (-right, -down) away."""
        there = padded[1 + down :, 1 + right :][:height, :width]
        back = padded[1 - down :, 1 - right :][:height, :width]
        return np.asarray((magnitude > there) & (magnitude >= back))

    flat, steep = np.abs(dy) <= TAN_22_5 * np.abs(dx), np.abs(dx) <= TAN_22_5 * np.abs(dy)
    diagonal = np.where(dx * dy > 0, peak(1, 1), peak(1, -1))
    return np.asarray(np.where(flat, peak(1, 0), np.where(steep, peak(0, 1), diagonal)))
