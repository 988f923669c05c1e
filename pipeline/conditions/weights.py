"""Models behind the extractors with weights: loaded once a process, run at a drawn resolution."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from pipeline.conditions.base import Extractor, Params, Picture

ANNOTATORS = "lllyasviel/Annotators"  # hub repository of ControlNet 1.1's annotators
#: Pixels of the shorter side for annotators: the three of ControlNet 1.1's depth maps, so as not to overfit one.
RESOLUTIONS = (256, 384, 512)
MULTIPLE = 64  # controlnet-aux rounds sides to multiples of it


class Weighted(Extractor):
    """An extractor whose model lies in a local folder or on the hub.

    ``weights`` is where: "" for `default`. Building one loads nothing; `prepare` or the first map does.
    """

    default = ANNOTATORS

    def __init__(self, weights: str = "") -> None:
        self.weights = weights or self.default

    def draw(self, rng: np.random.Generator) -> Params:
        """``resolution`` at which the annotator runs, pixels of the shorter side."""
        return {"resolution": int(rng.choice(RESOLUTIONS))}


def resize(image: Picture, width: int, height: int) -> Picture:
    """Averaging over areas when it shrinks, Lanczos when it grows: as controlnet-aux resizes its input."""
    if image.shape[:2] == (height, width):
        return np.ascontiguousarray(image)
    shrinks = width * height < image.shape[0] * image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LANCZOS4
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), dtype=np.uint8)


def at_resolution(image: Picture, resolution: int) -> tuple[int, int]:
    """(width, height) of the image with its shorter side at ``resolution``."""
    height, width = image.shape[:2]
    scale = resolution / min(height, width)
    return round(width * scale), round(height * scale)


def annotate(detector: Any, image: Picture, resolution: int, **options: Any) -> Picture:
    """What a controlnet-aux ``detector`` sees in the image at ``resolution``, at the image's own size.

    controlnet-aux stretches sides to multiples of 64; here the border is repeated up to them and cut off again, so
    that the map lies exactly on the image. (H, W, 3) uint8 RGB -> (H, W, 3) uint8
    """
    import torch

    width, height = at_resolution(image, resolution)
    resized = resize(image, width, height)
    padded = cv2.copyMakeBorder(resized, 0, -height % MULTIPLE, 0, -width % MULTIPLE, cv2.BORDER_REPLICATE)
    side = min(padded.shape[:2])
    with torch.inference_mode():
        detected = detector(padded, detect_resolution=side, image_resolution=side, output_type="np", **options)
    back = image.shape[1], image.shape[0]
    if (width, height) == back:
        return np.ascontiguousarray(detected[:height, :width], dtype=np.uint8)
    method = cv2.INTER_AREA if width > back[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(detected[:height, :width], back, interpolation=method), dtype=np.uint8)
