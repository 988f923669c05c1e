"""Canny edges (Canny, 1986) with random thresholds per sample, as the paper's Canny model was trained."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.conditions.base import Extractor, Params, Picture


class Canny(Extractor):
    """OpenCV's Canny on RGB (largest gradient of the three channels), aperture 3, L1 norm.

    ControlNet's annotator uses 100/200; v1.0 was trained with random thresholds of unstated range. Here low is drawn
    from 50 ... 150 and high lies 50 ... 150 above it, so 100/200 is the mean.
    """

    name = "canny"
    binary = True
    light_on_dark = True

    def draw(self, rng: np.random.Generator) -> Params:
        """``{"low": int, "high": int}`` in units of 8-bit gradient magnitude."""
        low = int(rng.integers(50, 151))
        return {"low": low, "high": low + int(rng.integers(50, 151))}

    def extract(self, image: Picture, params: Params) -> Picture:
        """(H, W, 3) uint8 RGB -> (H, W) uint8, 255 on edges and 0 elsewhere."""
        return np.asarray(cv2.Canny(np.ascontiguousarray(image), params["low"], params["high"]), dtype=np.uint8)
