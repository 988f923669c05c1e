"""Line drawings without weights: the extended difference of Gaussians (Winnemoeller, Kyprianidis and Olsen, 2012)."""

from __future__ import annotations

import numpy as np

from pipeline.conditions.base import Extractor, Params, Picture, canvas_scale, log_uniform, uniform
from pipeline.conditions.gradient import smooth

K = 1.6  # ratio of the two sigmas: closest to the Laplacian of Gaussian (Marr and Hildreth, 1980; used in XDoG)


class Lineart(Extractor):
    """XDoG, isotropic, white lines on black (its paper draws black on white).

    Its paper works on luminance; here each channel is drawn and the most ink counts, so that edges between colours of
    one luminance are not lost. With tau near 1 the difference is 0 or above wherever the picture is flat, so dark areas
    stay paper and only the dark side of edges is inked.
    """

    name = "lineart"
    light_on_dark = True

    def draw(self, rng: np.random.Generator) -> Params:
        """``sigma`` in pixels of a 512-pixel canvas (half a line's width), ``tau``, ``epsilon`` and ``phi`` of XDoG.

        A step of c falls to about -0.1 c, so the faintest line is a step of 5 to 25 grey levels at tau = 1,
        and of up to 25 more in the light where tau = 0.99.
        """
        sigma, tau = log_uniform(rng, 0.7, 2.0), uniform(rng, 0.99, 1.0)
        return {"sigma": sigma, "tau": tau, "epsilon": uniform(rng, -0.01, -0.002), "phi": log_uniform(rng, 20, 200)}

    def extract(self, image: Picture, params: Params) -> Picture:
        """(H, W, 3) uint8 RGB -> (H, W) uint8 in 0 ... 255: 1 - T of XDoG's threshold

        T(u) = 1 for u >= epsilon, else 1 + tanh(phi (u - epsilon)), with u = G_sigma - tau G_{k sigma} in [-1, 1].
        """
        sigma = max(params["sigma"] * canvas_scale(image), 0.5)
        u = (smooth(image, sigma) - np.float32(params["tau"]) * smooth(image, K * sigma)) / 255
        least = np.minimum(np.minimum(u[..., 0], u[..., 1]), u[..., 2])  # five times as fast as u.min(axis=2)
        ink = np.tanh(np.float32(params["phi"]) * np.maximum(np.float32(params["epsilon"]) - least, 0))
        return np.asarray(np.rint(255 * ink), dtype=np.uint8)
