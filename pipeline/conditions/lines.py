"""Straight lines without weights: the line segment detector (von Gioi, Jakubowicz, Morel and Randall, 2012)."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.conditions.base import Extractor, Params, Picture, canvas_scale, log_uniform

FARTHEST = 2**15 - 1  # pixels: OpenCV draws in 16-bit fixed point


class Lines(Extractor):
    """OpenCV's LSD on grey, segments above a length drawn one pixel wide, as ControlNet's M-LSD maps are."""

    name = "lines"
    binary = True
    light_on_dark = True

    def draw(self, rng: np.random.Generator) -> Params:
        """``length``: of the shortest segment kept, pixels of a 512-pixel canvas; ``scale``: LSD works at this size.

        LSD's own scale is 0.8; smaller ones merge the two sides of a thin bar.
        """
        return {"length": log_uniform(rng, 12.0, 50.0), "scale": log_uniform(rng, 0.5, 1.0)}

    def extract(self, image: Picture, params: Params) -> Picture:
        """(H, W, 3) uint8 RGB -> (H, W) uint8, 255 on segments and 0 elsewhere."""
        grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
        detected = cv2.createLineSegmentDetector(cv2.LSD_REFINE_STD, params["scale"]).detect(grey)[0]
        segments = np.empty((0, 4), np.float32) if detected is None else detected.reshape(-1, 4)
        length = np.hypot(segments[:, 2] - segments[:, 0], segments[:, 3] - segments[:, 1])
        return draw_segments(segments[length >= params["length"] * canvas_scale(image)], grey.shape)


def draw_segments(segments: NDArray[np.float32], shape: tuple[int, ...]) -> Picture:
    """(N, 4) float x1, y1, x2, y2 in pixels -> (H, W) uint8 with white lines one pixel wide."""
    canvas = np.zeros(shape[:2], np.uint8)
    ends = np.rint(np.clip(segments, -FARTHEST, FARTHEST)).astype(np.int32).reshape(-1, 2, 2)
    cv2.polylines(canvas, list(ends), False, 255, 1)
    return canvas
