"""Surface normals from estimated depth, as ControlNet 1.0 made its coarse normals."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.conditions.base import Params, Picture, log_uniform, uniform
from pipeline.conditions.depth import Depth, inverse_depth


class Normal(Depth):
    """Gradients of a depth model's inverse depth (any that `depth` takes), in the convention of rendered normals."""

    name = "normal"
    flip_safe = False  # a mirrored surface faces the other way

    def draw(self, rng: np.random.Generator) -> Params:
        """``resolution``; ``relief``: see `normals`; ``background``: inverse depth below which all is flat (ControlNet
        1.0: 0.1 to 0.4).
        """
        more = {"relief": log_uniform(rng, 2.0, 8.0), "background": uniform(rng, 0.0, 0.2)}
        return super().draw(rng) | more

    def extract(self, image: Picture, params: Params) -> Picture:
        """(H, W, 3) uint8 RGB -> (H, W, 3) uint8 RGB: (n + 1) / 2, R right, G up, B towards the viewer."""
        near = inverse_depth(self.weights, image, params["resolution"])
        vectors = normals(near, params["relief"], params["background"])
        return np.asarray(np.rint(127.5 * (vectors + 1)), dtype=np.uint8)


def normals(near: NDArray[np.float32], relief: float, background: float) -> NDArray[np.float32]:
    """Unit normals of the surface whose height towards the viewer is ``relief`` x ``near`` shorter sides.

    ControlNet 1.0 has (d/dx, d/dy, a = 2 pi) of unnormalised depth, and nothing but its a to say how steep that is.
    near (H, W) float32 in [0, 1] -> (H, W, 3) float32, x right, y up, z towards the viewer
    """
    slope = relief * min(near.shape) / 8  # Sobel's kernel adds up to 8
    right = cv2.Sobel(near, cv2.CV_32F, 1, 0, scale=slope, borderType=cv2.BORDER_REPLICATE)
    down = cv2.Sobel(near, cv2.CV_32F, 0, 1, scale=slope, borderType=cv2.BORDER_REPLICATE)
    flat = near < background
    right[flat], down[flat] = 0, 0
    vectors = np.stack([-right, down, np.ones_like(near)], axis=2)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=2, keepdims=True), dtype=np.float32)
