"""Tile (ControlNet 1.1): the image without its details, to be given new ones."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.conditions.base import Extractor, Params, Picture, log_uniform


class Tile(Extractor):
    """Shrunk by a drawn factor (mean over areas) and enlarged again (cubic)."""

    name = "tile"

    def draw(self, rng: np.random.Generator) -> Params:
        """``factor``, 2 ... 8: ControlNet 1.1's example goes from 64 to 512 pixels, web interfaces offer up to 8."""
        return {"factor": log_uniform(rng, 2.0, 8.0)}

    def extract(self, image: Picture, params: Params) -> Picture:
        """(H, W, 3) uint8 RGB -> (H, W, 3) uint8 RGB."""
        height, width = image.shape[:2]
        few = (max(1, round(width / params["factor"])), max(1, round(height / params["factor"])))
        small = cv2.resize(image, few, interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
