"""Grey: the image without its colours, to be coloured."""

from __future__ import annotations

import numpy as np

from pipeline.conditions.base import Extractor, Params, Picture

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
SPREAD = 20  # concentration of the drawn weights around them: standard deviations of 0.10, 0.11 and 0.07


class Grey(Extractor):
    """A weighted sum of R, G and B with weights drawn around luma's, as black-and-white films and filters differ."""

    name = "grey"

    def draw(self, rng: np.random.Generator) -> Params:
        """``weights`` of R, G, B: positive, of sum 1, of mean `LUMA`."""
        red, green = (round(float(w), 4) for w in rng.dirichlet(SPREAD * np.array(LUMA))[:2])
        return {"weights": [red, green, round(1 - red - green, 4)]}

    def extract(self, image: Picture, params: Params) -> Picture:
        """(H, W, 3) uint8 RGB -> (H, W) uint8."""
        mixed = image.astype(np.float32) @ np.array(params["weights"], np.float32)
        return np.asarray(np.clip(np.rint(mixed), 0, 255), dtype=np.uint8)
