"""Does a soft map give the picture away?

ControlNet 1.1's author found that soft edges "tend to hide a corrupted greyscale version of the original image inside",
and that a model then learns to restore it instead of following edges. Here that is a number: how much of the grey image
a linear reader, fitted on other images, recovers from the map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 96  # pixels a side at which maps are read: coarse enough to be quick, fine enough for what is hidden
PATCH, SCALES = 3, (5, 9, 17)  # pixels: all values around a place, and means over wider squares
CAPS = (255, 96, 32)  # levels; what hides in a soft map is faint beside its lines
PIXELS = 1500  # a picture, drawn at random
RIDGE = 1e-3  # relative to the features' variance


@dataclass(frozen=True)
class LeakReport:
    """``r2``: mean share of a held-out picture's grey variance that is recovered, in [0, 1]; 95 % interval; n."""

    r2: float
    interval: tuple[float, float]
    n: int


def _features(soft_map: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(H, W) uint8 -> (SIDE, SIDE, F) float32 in [0, 1]: the map, and its faint part without the lines above it."""
    reach = PATCH // 2
    planes: list[NDArray[Any]] = [np.ones((SIDE, SIDE), np.float32)]
    for cap in CAPS:
        capped = np.minimum(soft_map, cap).astype(np.float32) / cap
        small = cv2.resize(capped, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        padded = cv2.copyMakeBorder(small, reach, reach, reach, reach, cv2.BORDER_REFLECT)
        planes += [padded[y : y + SIDE, x : x + SIDE] for y in range(PATCH) for x in range(PATCH)]
        planes += [cv2.blur(small, (size, size)) for size in SCALES]
    return np.stack(planes, -1).astype(np.float32)


def _grey(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.float32) / np.float32(255)


def leak(images: NDArray[np.uint8], maps: NDArray[np.uint8], seed: int = 0) -> LeakReport:
    """How well grey images are recovered from their maps, by ridge regression fitted on the other half.

    images (N, H, W, 3) uint8, maps (N, H, W) uint8, N >= 4. Two folds, so every picture is held out once. R2 of a
    picture is against its own mean and not below 0; the interval is a percentile bootstrap over pictures.
    """
    rng = np.random.default_rng([seed, 4_242])
    place = rng.integers(SIDE * SIDE, size=(len(images), PIXELS))
    x = [_features(m).reshape(SIDE * SIDE, -1)[p] for m, p in zip(maps, place, strict=True)]
    y = [_grey(i).reshape(-1)[p] for i, p in zip(images, place, strict=True)]
    fold = rng.permutation(len(images)) % 2
    scores = np.zeros(len(images))
    for side in (0, 1):
        train = np.flatnonzero(fold != side)
        a, b = np.concatenate([x[i] for i in train]), np.concatenate([y[i] for i in train])
        gram = a.T.astype(np.float64) @ a
        penalty = RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
        weights = np.linalg.solve(gram + penalty, a.T.astype(np.float64) @ b)
        for i in np.flatnonzero(fold == side):
            error = float(((y[i] - x[i] @ weights) ** 2).mean())
            scores[i] = max(0.0, 1 - error / max(float(y[i].var()), 1e-6))
    resampled = scores[rng.integers(len(scores), size=(1000, len(scores)))].mean(1)
    low, high = np.quantile(resampled, (0.025, 0.975))
    return LeakReport(float(scores.mean()), (float(low), float(high)), len(scores))
