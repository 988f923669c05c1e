"""Line drawings without weights: the extended difference of Gaussians (Winnemoeller, Kyprianidis and Olsen, 2012)."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.conditions.base import Extractor, Params, Picture, canvas_scale, log_uniform, uniform
from pipeline.conditions.gradient import smooth

K = 1.6  # ratio of the two sigmas: closest to the Laplacian of Gaussian (Marr and Hildreth, 1980; used in XDoG)


class Lineart(Extractor):
    """XDoG, isotropic, white lines on black (its paper draws black on white).

    With tau near 1 the difference is 0 or above wherever the picture is flat, so dark areas stay paper and only the
    dark side of edges is inked.
    """

    name = "lineart"
    light_on_dark = True

    def draw(self, rng: np.random.Generator) -> Params:
        """``sigma`` in pixels of a 512-pixel canvas (half a line's width), ``tau``, ``epsilon`` and ``phi`` of XDoG."""
        sigma, tau = log_uniform(rng, 0.7, 2.0), uniform(rng, 0.98, 1.0)
        return {"sigma": sigma, "tau": tau, "epsilon": uniform(rng, -0.015, -0.003), "phi": log_uniform(rng, 20, 200)}

    def extract(self, image: Picture, params: Params) -> Picture:
        """(H, W, 3) uint8 RGB -> (H, W) uint8 in 0 ... 255: 1 - T of XDoG's threshold

        T(u) = 1 for u >= epsilon, else 1 + tanh(phi (u - epsilon)), with u = G_sigma - tau G_{k sigma} in [-1, 1].
        """
        grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
        sigma = max(params["sigma"] * canvas_scale(image), 0.5)
        u = (smooth(grey, sigma) - np.float32(params["tau"]) * smooth(grey, K * sigma)) / 255
        ink = np.tanh(np.float32(params["phi"]) * np.maximum(np.float32(params["epsilon"]) - u, 0))
        return np.asarray(np.rint(255 * ink), dtype=np.uint8)
