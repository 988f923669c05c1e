"""Floor textures: linear-light RGB as a function of the point on the floor. Low in contrast, so that
edge maps speak of the objects first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def _waves(x: Array, y: Array, phase: tuple[float, ...], scale: float) -> Array:
    """Smooth noise in about [-1, 1]: four sinusoids in fixed directions with random phases."""
    total = np.zeros_like(x)
    for i, (kx, ky) in enumerate(((1.0, 0.7), (-0.6, 1.3), (1.7, -0.4), (0.3, -1.9))):
        total += np.sin(scale * (kx * x + ky * y) + 6.2832 * phase[i % len(phase)] * (i + 1))
    return np.asarray(total / 4, dtype=np.float32)


def _blend(dark: tuple[float, ...], light: tuple[float, ...], amount: NDArray[np.floating]) -> Array:
    a, b = np.array(dark, np.float32)[:, None], np.array(light, np.float32)[:, None]
    return np.asarray(a + (b - a) * np.clip(amount, 0, 1), dtype=np.float32)


def floor_color(name: str, x: Array, y: Array, phase: tuple[float, ...]) -> Array:
    """Colour of floor ``name`` at points (N,), (N,); returns (3, N) float32 in [0, 1]."""
    if name == "wooden":
        plank = np.floor(y * 1.6 + phase[0])
        shade = np.modf(np.abs(np.sin(plank * 12.9898 + phase[1] * 40) * 437.5))[0].astype(np.float32)
        grain = 0.5 + 0.5 * np.sin(14 * y + 2.2 * np.sin(1.3 * x + plank * 2.1) + 9 * phase[2])
        gap = np.abs(np.modf(y * 1.6 + phase[0] + 100)[0] - 0.5) > 0.475
        amount = 0.15 + 0.5 * shade + 0.2 * grain
        return _blend((0.20, 0.10, 0.04), (0.52, 0.30, 0.14), np.where(gap, amount * 0.45, amount))
    if name == "checkered":
        odd = (np.floor(x * 0.85 + phase[0]) + np.floor(y * 0.85 + phase[1])) % 2
        return _blend((0.22, 0.23, 0.26), (0.52, 0.51, 0.48), odd)
    if name == "marble":
        warp = _waves(x, y, phase, 1.5)
        vein = np.abs(np.sin(1.5 * (x + 0.6 * y) + 3.2 * warp + 6 * phase[4]))
        return _blend((0.36, 0.39, 0.41), (0.64, 0.63, 0.60), np.sqrt(vein))
    if name == "sandy":
        ripple = 0.5 + 0.5 * np.sin(6.5 * y + 1.6 * _waves(x, y, phase, 1.1) + 6 * phase[5])
        return _blend((0.50, 0.36, 0.17), (0.68, 0.52, 0.28), 0.25 + 0.6 * ripple)
    if name == "slate":
        return _blend((0.045, 0.055, 0.07), (0.13, 0.15, 0.18), 0.5 + 0.8 * _waves(x, y, phase, 2.3))
    raise ValueError(f"unknown floor {name!r}")
