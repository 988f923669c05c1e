"""Inpainting: the image with a drawn mask cut out of it."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.conditions.base import Extractor, Params, Picture, uniform


class Inpaint(Extractor):
    """Masked pixels are (0, 0, 0), and no other pixel is: pure black of the image becomes (1, 1, 1).

    ControlNet 1.1 marks them with -1 in an image of [0, 1], which 8 bits cannot hold. Since black is reserved, the
    mask can be read off the map, and -1 put there (`inpaint_mask`). v1.1 trained on half random masks, half
    occlusions by optical flow; single pictures have no flow, so all masks are random: brush strokes and boxes.
    """

    name = "inpaint"

    def draw(self, rng: np.random.Generator) -> Params:
        """The geometry itself, in shares of width and height: ``boxes`` [[x1, y1, x2, y2], ...] and ``strokes``
        [{"width": share of the shorter side, "points": [[x, y], ...]}, ...].
        """
        boxes = [_box(rng) for _ in range(rng.integers(0, 3))]
        return {"boxes": boxes, "strokes": [_stroke(rng) for _ in range(rng.integers(0 if boxes else 1, 4))]}

    def extract(self, image: Picture, params: Params) -> Picture:
        """(H, W, 3) uint8 RGB -> (H, W, 3) uint8 RGB, (0, 0, 0) where masked."""
        out = np.maximum(image, inpaint_mask(image).astype(np.uint8)[..., None])
        out[draw_mask(params, image.shape[0], image.shape[1])] = 0
        return np.asarray(out, dtype=np.uint8)


def draw_mask(params: Params, height: int, width: int) -> NDArray[np.bool_]:
    """The mask that the parameters describe. (H, W) bool, true where the image is to be filled in"""
    canvas = np.zeros((height, width), np.uint8)
    for box in params["boxes"]:
        left, top, right, bottom = (round(share * side) for share, side in zip(box, (width, height) * 2, strict=True))
        canvas[top:bottom, left:right] = 1
    for stroke in params["strokes"]:
        points = np.rint(np.array(stroke["points"]) * (width - 1, height - 1)).astype(np.int32)
        cv2.polylines(canvas, [points], False, 1, max(1, round(stroke["width"] * min(height, width))))
    return canvas.astype(bool)


def inpaint_mask(inpaint_map: Picture) -> NDArray[np.bool_]:
    """The mask of an inpainting map: where it is (0, 0, 0). (H, W, 3) uint8 -> (H, W) bool"""
    return np.asarray((inpaint_map[..., 0] | inpaint_map[..., 1] | inpaint_map[..., 2]) == 0)


def _box(rng: np.random.Generator) -> list[float]:
    """A rectangle with sides of 0.1 ... 0.5 of the picture's, anywhere in it."""
    wide, tall = uniform(rng, 0.1, 0.5), uniform(rng, 0.1, 0.5)
    left, top = uniform(rng, 0, 1 - wide), uniform(rng, 0, 1 - tall)
    return [left, top, round(left + wide, 4), round(top + tall, 4)]


def _stroke(rng: np.random.Generator) -> dict[str, Any]:
    """A brush stroke as of Yu et al. (2019): a path of 4 ... 12 corners that turns back and forth."""
    points = [rng.random(2)]
    heading = rng.uniform(0, 2 * np.pi)
    for _ in range(rng.integers(3, 12)):
        heading += np.pi + rng.uniform(
            -2 * np.pi / 5, 2 * np.pi / 5
        )  # theirs: 2 pi / 5 around, every other one reversed
        step = rng.uniform(0.05, 0.25) * np.array([np.cos(heading), np.sin(heading)])
        points.append(np.clip(points[-1] + step, 0, 1))
    return {"width": uniform(rng, 0.04, 0.12), "points": [[round(float(x), 4), round(float(y), 4)] for x, y in points]}


def signed_map(maps: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Maps (..., H, W, 3) uint8 as a ControlNet is fed: int16 with -255, thus -1 after division, in masked pixels.

    A1111, ComfyUI and diffusers mark what is to be inpainted so (``make_inpaint_condition`` of ControlNet 1.1).
    """
    masked = (maps == 0).all(axis=-1, keepdims=True)
    return np.where(masked, np.int16(-255), maps.astype(np.int16))
