"""Gaussian blur: the image out of focus, to be sharpened."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.conditions.base import Extractor, Params, Picture, canvas_scale, log_uniform


class Blur(Extractor):
    """A blur of drawn strength around the 9 pixels that ControlNet's web interface has by default (`blur_gaussian`)."""

    name = "blur"

    def draw(self, rng: np.random.Generator) -> Params:
        """``sigma`` in pixels of a 512-pixel canvas."""
        return {"sigma": log_uniform(rng, 3.0, 18.0)}

    def extract(self, image: Picture, params: Params) -> Picture:
        """(H, W, 3) uint8 RGB -> (H, W, 3) uint8 RGB."""
        sigma = params["sigma"] * canvas_scale(image)
        return np.asarray(cv2.GaussianBlur(np.ascontiguousarray(image), (0, 0), sigma), dtype=np.uint8)
