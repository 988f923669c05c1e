"""Straight lines by a network: M-LSD (Gu et al., 2022), through controlnet-aux."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from pipeline.conditions.base import Params, Picture, log_uniform
from pipeline.conditions.lines import draw_segments
from pipeline.conditions.weights import MULTIPLE, Weighted, at_resolution
from pipeline.contract.models import loading, pick_device


class Mlsd(Weighted):
    """``mlsd_large_512_fp32.pth`` in the folder or repository.

    The network and its decoding are controlnet-aux's; the segments are drawn on the image's own canvas, because lines
    one pixel wide do not survive resizing.
    """

    name = "mlsd"
    binary = True
    light_on_dark = True

    def prepare(self) -> None:
        """Load the network."""
        _network(self.weights)

    def draw(self, rng: np.random.Generator) -> Params:
        """``resolution``; ``score``: of the weakest line kept, around ControlNet's 0.1; ``distance``: shortest line, in
        cells of the network's half-size grid, from ControlNet's 0.1 to M-LSD's own 20.
        """
        more = {"score": log_uniform(rng, 0.05, 0.2), "distance": log_uniform(rng, 0.1, 20.0)}
        return super().draw(rng) | more

    def extract(self, image: Picture, params: Params) -> Picture:
        """(H, W, 3) uint8 RGB -> (H, W) uint8, 255 on segments and 0 elsewhere."""
        import torch
        from controlnet_aux.mlsd.utils import pred_lines

        sides = [max(1, round(side / MULTIPLE)) * MULTIPLE for side in at_resolution(image, params["resolution"])]
        with torch.inference_mode():
            try:
                segments = pred_lines(image, _network(self.weights), sides[::-1], params["score"], params["distance"])
            except IndexError:  # its answer to a picture without lines
                segments = np.empty((0, 4))
        return draw_segments(segments.astype(np.float32), image.shape)


@cache
def _network(where: str) -> Any:
    with loading("mlsd", where):
        from controlnet_aux import MLSDdetector

        return MLSDdetector.from_pretrained(where).to(pick_device()).model
