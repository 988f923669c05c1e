"""Surface normals by a network: Bae, Budvytis and Cipolla (2021), through controlnet-aux."""

from __future__ import annotations

from functools import cache
from typing import Any

from pipeline.conditions.base import Params, Picture
from pipeline.conditions.weights import Weighted, annotate
from pipeline.contract.models import loading, pick_device


class NormalBae(Weighted):
    """``scannet.pt`` in the folder or repository.

    Colours are left as the network was trained, in ScanNet's protocol, which ControlNet 1.1's normal model reads. That
    is not the convention of `normal` and of rendered normals, so the two do not mix.
    """

    name = "normalbae"
    flip_safe = False  # a mirrored surface faces the other way

    def prepare(self) -> None:
        """Load the network."""
        _detector(self.weights)

    def extract(self, image: Picture, params: Params) -> Picture:
        """(H, W, 3) uint8 RGB -> (H, W, 3) uint8, (n + 1) / 2."""
        return annotate(_detector(self.weights), image, params["resolution"])


@cache
def _detector(where: str) -> Any:
    with loading("normalbae", where):
        from controlnet_aux import NormalBaeDetector

        return NormalBaeDetector.from_pretrained(where).to(pick_device())
