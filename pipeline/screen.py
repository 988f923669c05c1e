"""Screening: each check returns a reason or passes; nothing is dropped in silence."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.config import DatasetConfig
from pipeline.sources import Rejected, Sample


def screen_sample(sample: Sample, config: DatasetConfig) -> None:
    """Raise `Rejected` with too_small, aspect, caption_empty, caption_too_long or uniform."""
    short, long = sorted((sample.width, sample.height))
    if short < config.min_side:
        raise Rejected("too_small", f"{sample.width}x{sample.height}")
    if long / short > config.max_aspect:
        raise Rejected("aspect", f"{sample.width}x{sample.height}")
    if len(sample.text.strip()) < config.min_caption:
        raise Rejected("caption_empty", repr(sample.text))
    if len(sample.text) > config.max_caption:
        raise Rejected("caption_too_long", f"{len(sample.text)} characters")
    if int(np.ptp(sample.image)) < 8:
        raise Rejected("uniform", "all pixels within 8 of 255 levels")


def screen_map(edges: NDArray[np.uint8], config: DatasetConfig) -> None:
    """Raise `Rejected` with map_empty or map_saturated for an edge map (H, W) uint8 in {0, 255}."""
    lit = float((edges > 127).mean())
    if lit < config.min_map_share:
        raise Rejected("map_empty", f"{lit:.5f} lit")
    if lit > config.max_map_share:
        raise Rejected("map_saturated", f"{lit:.3f} lit")


def quality(image: NDArray[np.uint8]) -> tuple[float, float]:
    """(brightness, sharpness): mean grey in [0, 1] and the variance of its Laplacian (Pech-Pacheco et al., 2000)."""
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    return float(grey.mean()), float(cv2.Laplacian(grey, cv2.CV_32F).var())
