"""Smooth random fields, shared by the shuffle's flow and the scribble's gaps."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def smooth_noise(rng: np.random.Generator, height: int, width: int, grid: int) -> NDArray[np.float32]:
    """Random points ``grid`` pixels apart, cubic between them, stretched to [0, 1] (controlnet-aux's noise disk).

    -> (H, W) float32
    """
    points = rng.random((height // grid + 2, width // grid + 2)).astype(np.float32)
    noise = cv2.resize(points, (width + 2 * grid, height + 2 * grid), interpolation=cv2.INTER_CUBIC)
    noise = noise[grid : grid + height, grid : grid + width]
    low, high = float(noise.min()), float(noise.max())
    return np.asarray((noise - low) / max(high - low, 1e-6), dtype=np.float32)
