"""Soft edges without weights: thinned colour gradients, redrawn as soft lines."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.conditions.base import Extractor, Params, Picture, canvas_scale, log_uniform, uniform
from pipeline.conditions.gradient import colour_gradient, contrast, ridge


class SoftEdge(Extractor):
    """Looks like HED's or PiDiNet's maps: the brighter the line, the stronger the edge; lines of one soft width.

    The map has no absolute level of its image to hide, but its grey values still follow local contrast, hence ``soft``.
    """

    name = "softedge"
    soft = True
    light_on_dark = True

    def draw(self, rng: np.random.Generator) -> Params:
        """``sigma``: scale of the gradient, ``width``: sigma of a line's profile, both in pixels of a 512-pixel canvas;
        ``half``: grey levels of the step that is drawn half white.
        """
        sigma, width = log_uniform(rng, 1.0, 3.0), log_uniform(rng, 1.0, 2.5)
        return {"sigma": sigma, "width": width, "half": uniform(rng, 20.0, 60.0)}

    def extract(self, image: Picture, params: Params) -> Picture:
        """(H, W, 3) uint8 RGB -> (H, W) uint8: c^2 / (c^2 + half^2) on ridges of contrast c, blurred to ``width``."""
        scale = canvas_scale(image)
        sigma, width = max(params["sigma"] * scale, 0.5), max(params["width"] * scale, 0.5)
        dx, dy = colour_gradient(image, sigma)
        power = contrast(dx, dy, sigma) ** 2
        strength = power / (power + np.float32(params["half"] ** 2))
        lines = np.where(ridge(dx, dy, power), strength, 0)
        peak = np.sqrt(2 * np.pi) * width  # a line of height 1 keeps its height: a Gaussian's profile has 1 / peak
        soft = cv2.GaussianBlur(lines, (0, 0), width) * np.float32(255 * peak)
        return np.asarray(np.clip(soft, 0, 255), dtype=np.uint8)
