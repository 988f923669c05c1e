"""Scribbles, synthesised: coarse edges redrawn with a broad pen, with gaps."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.conditions.base import Extractor, Params, Picture, canvas_scale, draw_seed, log_uniform, uniform
from pipeline.conditions.gradient import colour_gradient, contrast, ridge
from pipeline.conditions.noise import smooth_noise

Mask = NDArray[np.bool_]
GAP_GRID = 48  # pixels of a 512-pixel canvas between the points of the gaps' noise: gaps of a hand's breadth
SHORTEST = 12  # pixels of that canvas: shorter strokes are specks of texture


class Scribble(Extractor):
    """ControlNet's recipe, whose ranges were not published but for the width: edges with random thresholds, random
    masking, random morphology and random thinning (v1.0), strokes 1 to 24 pixels wide on a 512-pixel canvas (v1.1).
    Here the edges are thinned colour gradients at a scale that grows with the pen, so that strokes stay apart.
    """

    name = "scribble"
    binary = True
    light_on_dark = True

    def draw(self, rng: np.random.Generator) -> Params:
        """``width`` of the pen, ``sigma`` of the edges, ``swell`` of the closing, all in pixels of a 512-pixel canvas;
        ``step``: grey levels of the weakest edge; ``rank``: its share of the strongest edge that the pen would touch;
        ``gaps``: share of the picture left out, with the ``seed`` of where.
        """
        width = log_uniform(rng, 1.0, 24.0)
        return {
            "width": width,
            "sigma": round(log_uniform(rng, 1.5, 3.0) + width / 6, 4),
            "rank": uniform(rng, 0.4, 0.9),
            "swell": uniform(rng, 0.0, 3.0),
            "step": uniform(rng, 25.0, 70.0),
            "gaps": uniform(rng, 0.0, 0.3),
            "seed": draw_seed(rng),
        }

    def extract(self, image: Picture, params: Params) -> Picture:
        """(H, W, 3) uint8 RGB -> (H, W) uint8, 255 on strokes and 0 elsewhere."""
        scale = canvas_scale(image)
        edges = thin_edges(image, params)
        edges &= smooth_mask(params["seed"], edges.shape, GAP_GRID * scale, 1 - params["gaps"])
        edges = drop_short(edges, max(SHORTEST, 2 * params["width"]) * scale)
        radius, swell = max(params["width"] * scale - 1, 0) / 2, params["swell"] * scale
        strokes = distance_to(edges) <= radius + swell
        return np.where(distance_to(~strokes) > swell, np.uint8(255), np.uint8(0))


def thin_edges(image: Picture, params: Params) -> Mask:
    """Ridges of the colour gradient, of at least ``step`` in contrast and not drowned by others within a pen's width.

    (H, W, 3) uint8 -> (H, W) bool
    """
    scale = canvas_scale(image)
    sigma = max(params["sigma"] * scale, 0.5)
    dx, dy = colour_gradient(image, sigma)
    strength = contrast(dx, dy, sigma)
    around = np.ones((2 * round(params["width"] * scale) + 1,) * 2, np.uint8)
    floor = np.maximum(np.float32(params["rank"]) * cv2.dilate(strength, around), np.float32(params["step"]))
    return np.asarray((strength >= floor) & ridge(dx, dy, strength))


def drop_short(edges: Mask, length: float) -> Mask:
    """Without the connected edges of fewer than ``length`` pixels. (H, W) bool -> (H, W) bool"""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(edges.astype(np.uint8), connectivity=8)
    long_enough = stats[:, cv2.CC_STAT_AREA] >= length
    long_enough[0] = False  # the ground
    return np.asarray(long_enough[labels])


def smooth_mask(seed: int, shape: tuple[int, ...], grid: float, share: float) -> Mask:
    """Random blobs that cover about ``share`` of the picture. (H, W) bool"""
    noise = smooth_noise(np.random.default_rng(seed), shape[0], shape[1], max(4, round(grid)))
    return np.asarray(noise <= np.quantile(noise[::4, ::4], share))


def distance_to(mask: Mask) -> NDArray[np.float32]:
    """Pixels to the nearest true one, far beyond the picture where there is none. (H, W) bool -> (H, W) float32"""
    return np.asarray(cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5), dtype=np.float32)
