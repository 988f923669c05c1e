"""Maps of more than 8 bits, such as depth in millimetres: by which rule they become 8 bits."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Scale = Literal["range", "percentile", "inverse", "full"]
PERCENTILES = (2, 98)


def high_byte(values: NDArray[Any]) -> NDArray[np.uint8]:
    """16 bits -> the nearest of 8, 65535 being 255."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def scaled(values: NDArray[Any], scale: Scale) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """Levels of one map by the rule ``scale``; places without a value are black under each.

    Parameters
    ----------
    values
        (H, W) integers or floats; 0, negative and infinite ones mean that nothing was measured there.
    scale
        ``range``: the map's least value becomes 0 and its largest 255. ``percentile``: its 2nd and 98th percentiles do.
        ``inverse``: as range, of 1 / value, so that distances become near-is-white depth as MiDaS gives it. ``full``:
        65535 becomes 255.

    Returns
    -------
    levels, params
        (H, W) uint8; the rule and, in the map's own units, which values became its ends.
    """
    if scale == "full":
        return high_byte(values), {"scale": scale}
    numbers = values.astype(np.float64)
    measured = np.isfinite(numbers) & (numbers > 0)
    if not measured.any():
        return np.zeros(values.shape, np.uint8), {"scale": scale, "low": 0.0, "high": 0.0}
    inside = numbers[measured]
    ends = np.percentile(inside, PERCENTILES if scale == "percentile" else (0, 100))
    params = {"scale": scale, "low": float(f"{ends[0]:.6g}"), "high": float(f"{ends[1]:.6g}")}
    if scale == "inverse":
        inside, ends = 1 / inside, 1 / ends[::-1]
    share = (inside - ends[0]) / max(float(ends[1] - ends[0]), np.finfo(float).tiny)
    levels = np.zeros(values.shape, np.uint8)
    levels[measured] = np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)
    return levels, params
