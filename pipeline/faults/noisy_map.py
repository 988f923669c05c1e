"""A map with noise: what a bad annotator, a bad scan or a lossy file leaves."""

from __future__ import annotations

import numpy as np

from pipeline.conditions import Params
from pipeline.faults.base import AnySet, Neighbours, Sample

FALSE, MISSED = 0.05, 0.5  # edges: share of dark pixels that are lit, of lit ones that are lost
SIGMA = 40.0  # other maps: Gaussian noise, grey levels


class NoisyMap(AnySet):
    """Edges: 5 % of the dark pixels lit and half of the lit ones lost. Other maps: Gaussian noise of 40 levels."""

    name = "noisy_map"

    def apply(self, sample: Sample, rng: np.random.Generator, near: Neighbours) -> Params | None:
        """See `Fault`."""
        for name in sample.conditions:
            picture = sample.map(name)
            if sample.is_binary(name):
                lit = picture[..., 0] > 127
                flip = rng.random(lit.shape) < np.where(lit, MISSED, FALSE)
                noisy = np.where(lit ^ flip, 255, 0)
            else:
                noisy = np.clip(np.rint(picture + rng.normal(0, SIGMA, (*picture.shape[:2], 1))), 0, 255)
            sample.set_map(name, noisy.astype(np.uint8))
        return {}
