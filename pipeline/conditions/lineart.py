"""Line drawing without weights: controlnet-aux's LineartStandard, white lines on black."""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.conditions.base import Params


class Lineart:
    """Difference to a Gaussian-blurred copy, normalised by its median (controlnet_aux.LineartStandardDetector)."""

    name = "lineart"
    binary = False

    @cached_property
    def _detector(self) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its import warns of optional detectors that are not used here
            from controlnet_aux import LineartStandardDetector  # slow to import, so only when asked for

        return LineartStandardDetector()

    def draw(self, rng: np.random.Generator) -> Params:
        """``sigma`` of the blur in pixels and the ``threshold`` below which a difference is no line."""
        return {"sigma": round(float(rng.uniform(3.0, 9.0)), 3), "threshold": int(rng.integers(6, 11))}

    def extract(self, image: NDArray[np.uint8], params: Params) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB -> (H, W) uint8 in 0 ... 255."""
        lines = self._detector(
            np.ascontiguousarray(image),
            guassian_sigma=params["sigma"],  # spelled so in controlnet-aux
            intensity_threshold=params["threshold"],
            detect_resolution=min(image.shape[:2]),
            output_type="np",
        )[..., 0]
        if lines.shape != image.shape[:2]:  # controlnet-aux rounds sides to multiples of 64
            lines = cv2.resize(lines, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_AREA)
        return np.ascontiguousarray(lines, dtype=np.uint8)
