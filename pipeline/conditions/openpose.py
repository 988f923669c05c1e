"""Human pose: OpenPose (Cao et al., 2019) with hands and face, through controlnet-aux."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from pipeline.conditions.base import Params, Picture
from pipeline.conditions.weights import Weighted, annotate
from pipeline.contract.models import loading, pick_device


class OpenPose(Weighted):
    """``body_pose_model.pth``, ``hand_pose_model.pth`` and ``facenet.pth`` in the folder or repository.

    OpenPose's licence allows non-commercial use only. A picture without people gives an empty map. Limbs are drawn four
    pixels wide at the annotator's resolution and shrink with the map.
    """

    name = "openpose"
    light_on_dark = True
    flip_safe = False  # left and right limbs have their own colours

    def prepare(self) -> None:
        """Load the three networks."""
        _detector(self.weights)

    def draw(self, rng: np.random.Generator) -> Params:
        """``resolution``; ``hand`` and ``face``: whether they are drawn, ControlNet 1.1 takes all four combinations."""
        more = {"hand": bool(rng.random() < 0.5), "face": bool(rng.random() < 0.5)}
        return super().draw(rng) | more

    def extract(self, image: Picture, params: Params) -> Picture:
        """(H, W, 3) uint8 RGB -> (H, W, 3) uint8 RGB, coloured limbs and key points on black."""
        options = {"include_hand": params["hand"], "include_face": params["face"]}
        return annotate(_detector(self.weights), image, params["resolution"], **options)


@cache
def _detector(where: str) -> Any:
    with loading("openpose", where):
        from controlnet_aux import OpenposeDetector

        return OpenposeDetector.from_pretrained(where).to(pick_device())
