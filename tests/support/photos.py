"""Photographs to test with: crops of those that scikit-image ships inside its wheel.

astronaut (NASA, public domain), coffee (Rachel Michetti, CC0 by its author), chelsea (Stefan van der Walt, CC0), rocket
(SpaceX, CC0), motorcycle (Middlebury stereo set, for research; never stored). Only read at test time.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]


@cache
def _sources() -> tuple[Picture, ...]:
    from skimage import data

    return data.astronaut(), data.coffee(), data.chelsea(), data.rocket(), data.stereo_motorcycle()[0]


def clean_photos(n: int, size: int, seed: int = 0) -> list[Picture]:
    """``n`` distinct crops, (size, size, 3) uint8 each, of other place or scale, some mirrored or turned."""
    rng = np.random.default_rng([seed, 77])
    made: list[Picture] = []
    taken: list[tuple[int, float, float, float, int]] = []
    while len(made) < n:
        which = len(made) % len(_sources())
        source = _sources()[which]
        height, width = source.shape[:2]
        least = min(max(0.35, 0.8 * size / min(height, width)), 0.9)  # hardly ever enlarged: that would blur it
        side = int(rng.uniform(least, 0.97) * min(height, width))
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        turn = int(rng.integers(8))
        centre = (left + side / 2, top + side / 2)
        if any(
            w == which and t == turn and abs(x - centre[0]) + abs(y - centre[1]) < s / 8 and 0.85 < side / s < 1.18
            for w, x, y, s, t in taken
        ):
            continue
        crop = source[top : top + side, left : left + side]
        if float(cv2.cvtColor(np.ascontiguousarray(crop), cv2.COLOR_RGB2GRAY).std()) < 20:
            continue  # empty sky is no photograph of something
        taken.append((which, *centre, side, turn))
        crop = np.rot90(crop[:, ::-1] if turn >= 4 else crop, turn % 4)
        smooth = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
        made.append(np.ascontiguousarray(cv2.resize(np.ascontiguousarray(crop), (size, size), interpolation=smooth)))
    return made
