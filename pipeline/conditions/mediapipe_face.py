"""Face mesh: MediaPipe through controlnet-aux, where the package mediapipe is installed."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from pipeline.conditions.base import Params, Picture, log_uniform
from pipeline.conditions.weights import Weighted, annotate
from pipeline.contract.errors import CnlabError
from pipeline.contract.models import loading

MOST_FACES = 10  # in a picture


class MediapipeFace(Weighted):
    """Contours of faces in MediaPipe's colours on black; its models come with the package, so ``weights`` is unused."""

    name = "mediapipe_face"
    default = "mediapipe"
    light_on_dark = True
    flip_safe = False  # left and right eyes have their own colours

    def __init__(self, weights: str = "") -> None:
        super().__init__(weights)
        if find_spec("mediapipe") is None:
            raise CnlabError(
                "condition 'mediapipe_face' needs the package mediapipe, which is not installed: pip install --no-deps "
                "'mediapipe<0.10.30' 'protobuf<5' absl-py attrs flatbuffers (its own list brings a second OpenCV)"
            )

    def prepare(self) -> None:
        """Import MediaPipe."""
        _detector()

    def draw(self, rng: np.random.Generator) -> Params:
        """``resolution``; ``confidence``: of the least certain face kept, around MediaPipe's 0.5."""
        return super().draw(rng) | {"confidence": log_uniform(rng, 0.3, 0.7)}

    def extract(self, image: Picture, params: Params) -> Picture:
        """(H, W, 3) uint8 RGB -> (H, W, 3) uint8 RGB."""
        options = {"max_faces": MOST_FACES, "min_confidence": params["confidence"]}
        return annotate(_detector(), image, params["resolution"], **options)


@cache
def _detector() -> Any:
    with loading("mediapipe_face", "mediapipe"):
        from controlnet_aux import MediapipeFaceDetector

        return MediapipeFaceDetector()
