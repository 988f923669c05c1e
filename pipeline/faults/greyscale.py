"""Colour lost, the caption still naming it."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.conditions import Params
from pipeline.faults.base import AnySet, Neighbours, Sample


class Greyscale(AnySet):
    """The picture's luma (ITU-R BT.601) in all three channels."""

    name = "greyscale"

    def apply(self, sample: Sample, rng: np.random.Generator, near: Neighbours) -> Params | None:
        """See `Fault`."""
        grey = cv2.cvtColor(sample.image, cv2.COLOR_RGB2GRAY)
        sample.image = np.repeat(np.asarray(grey, np.uint8)[..., None], 3, axis=2)
        return {}
