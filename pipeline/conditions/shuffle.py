"""Content shuffle (ControlNet 1.1): the image's colours and textures, its content carried off by a random flow."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.conditions.base import Extractor, Params, Picture, canvas_scale, draw_seed, log_uniform
from pipeline.conditions.noise import smooth_noise


class Shuffle(Extractor):
    """The remap of controlnet-aux's ContentShuffleDetector, with a recorded seed instead of NumPy's global generator
    and at the image's own size instead of a multiple of 64.
    """

    name = "shuffle"
    aligned = False

    def draw(self, rng: np.random.Generator) -> Params:
        """``seed`` of the flow; ``grid``: its control points are this far apart, pixels of a 512-pixel canvas (256 in
        ControlNet 1.1).
        """
        return {"seed": draw_seed(rng), "grid": log_uniform(rng, 128.0, 320.0)}

    def extract(self, image: Picture, params: Params) -> Picture:
        """(H, W, 3) uint8 RGB -> (H, W, 3) uint8 RGB."""
        height, width = image.shape[:2]
        rng, grid = np.random.default_rng(params["seed"]), max(4, round(params["grid"] * canvas_scale(image)))
        x, y = (smooth_noise(rng, height, width, grid) * (side - 1) for side in (width, height))
        return np.asarray(cv2.remap(image, x, y, cv2.INTER_LINEAR), dtype=np.uint8)
