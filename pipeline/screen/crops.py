"""Crops of an earlier picture: found by hashes of its parts, and believed only when the pixels fit.

Every picture is known by five 63-bit hashes: of the whole, and of its four crops to 80 % of the side that lie 5 or 15 %
from the left and upper edges. A crop to 80 % from anywhere is at most 5 % from one of them on each axis. The pictures
with the nearest hashes are then compared as small colour pictures, at every place and at several scales.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

SHARE = 0.8  # of the side that a hashed crop has
OFFSETS = (0.05, 0.15)  # of the side: how far it lies from the left and upper edges
PARTS = 1 + len(OFFSETS) ** 2
LOW = 8  # 8 x 8 low DCT frequencies, the constant left out: 63 bits
THUMB = 24  # pixels a side of the small pictures
SHARES = (0.85, 0.8, 0.9, 0.75)  # of the side, that the pixels are compared at
HOPELESS = 0.3  # what fits less at the middle scale is not looked at any further
CANDIDATES = 6  # pictures compared by pixels, of those nearest by hash
MOST_BITS = 18  # of 63; measured: crops to 80 and 90 % differ in at most 18 to 19 in 90 %, 0.3 % of strangers do
MOST_COLOUR = 40  # 8-bit levels that the mean of a crop may lie from the mean of the whole
NOISE = 4.0  # 8-bit levels squared, added to the variance: a flat picture fits nothing

Grey = NDArray[np.uint8]
Words = NDArray[np.uint64]


def low_hash(grey: Grey) -> np.uint64:
    """(N, N) uint8 -> signs of its low DCT coefficients."""
    small = cv2.resize(grey, (4 * LOW, 4 * LOW), interpolation=cv2.INTER_AREA).astype(np.float32)
    bits = (np.asarray(cv2.dct(small))[:LOW, :LOW] > 0).ravel()
    bits[0] = False
    return np.uint64(int.from_bytes(np.packbits(bits).tobytes(), "big"))


def part_hashes(grey: Grey) -> Words:
    """(N, N) uint8 -> (5,) uint64: of the whole, and of its four crops."""
    side = len(grey)
    length, starts = round(side * SHARE), [round(side * o) for o in OFFSETS]
    parts = [np.ascontiguousarray(grey[y : y + length, x : x + length]) for y in starts for x in starts]
    return np.array([low_hash(part) for part in (grey, *parts)], np.uint64)


def crop_fit(whole: NDArray[np.uint8], crop: NDArray[np.uint8]) -> float:
    """How well a small picture is a part of another, at its best place and scale.

    (24, 24, 3) uint8 each -> share of the crop's variance that the whole explains, without gain or offset; at most 1.
    """
    part, best = whole.astype(np.float32), -np.inf
    spread = float((cv2.meanStdDev(crop)[1] ** 2).sum()) + NOISE
    for share in SHARES:
        side = round(THUMB * share)
        small = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)
        difference = float(cv2.minMaxLoc(cv2.matchTemplate(part, small, cv2.TM_SQDIFF))[0]) / side**2
        best = max(best, 1 - difference / spread)
        if best < HOPELESS:
            break
    return best
