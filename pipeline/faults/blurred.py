"""Out of focus: one of the three faults that ControlNet 1.1's notes name in the data of 1.0."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.conditions import Params
from pipeline.conditions.base import uniform
from pipeline.faults.base import AnySet, Neighbours, Sample

SIGMA = (0.012, 0.03)  # of the side: 1.5 ... 3.8 pixels at 128, 6 ... 15 at 512


class Blurred(AnySet):
    """Gaussian blur of the picture; extracted maps are those of the blurred picture."""

    name = "blurred"

    def apply(self, sample: Sample, rng: np.random.Generator, near: Neighbours) -> Params | None:
        """See `Fault`."""
        image = sample.image
        sigma = uniform(rng, *SIGMA) * len(image)
        sample.image = np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)
        return {"sigma": round(sigma, 3)}
