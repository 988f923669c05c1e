"""Colour palette (T2I-Adapter's colour condition; Mou et al., 2023): a coarse grid of colours."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.conditions.base import Extractor, Params, Picture


class Palette(Extractor):
    """Mean colour of each cell. T2I-Adapter has cells of 64 pixels at 512 (8 x 8) and samples each by cubic
    interpolation, which aliases; here it is the mean.
    """

    name = "palette"
    aligned = False

    def draw(self, rng: np.random.Generator) -> Params:
        """``cells`` along the shorter side, 4 ... 16."""
        return {"cells": int(rng.integers(4, 17))}

    def extract(self, image: Picture, params: Params) -> Picture:
        """(H, W, 3) uint8 RGB -> (H, W, 3) uint8 RGB, square cells of one colour each."""
        height, width = image.shape[:2]
        cell = min(height, width) / params["cells"]
        small = cv2.resize(image, (round(width / cell), round(height / cell)), interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST), dtype=np.uint8)
