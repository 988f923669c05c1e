"""Soft edges by a network: HED (Xie and Tu, 2015) as retrained for ControlNet, through controlnet-aux."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from pipeline.conditions.base import Params, Picture
from pipeline.conditions.weights import Weighted, annotate
from pipeline.contract.models import loading, pick_device


class Hed(Weighted):
    """``ControlNetHED.pth`` (Apache-2.0) in the folder or repository."""

    name = "hed"
    soft = True
    light_on_dark = True

    def prepare(self) -> None:
        """Load the network."""
        _detector(self.weights)

    def extract(self, image: Picture, params: Params) -> Picture:
        """(H, W, 3) uint8 RGB -> (H, W) uint8, 255 for a sure edge."""
        return np.ascontiguousarray(annotate(_detector(self.weights), image, params["resolution"])[..., 0])


@cache
def _detector(where: str) -> Any:
    with loading("hed", where):
        from controlnet_aux import HEDdetector

        return HEDdetector.from_pretrained(where).to(pick_device())
