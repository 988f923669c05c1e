"""JPEG damage: saved once with far too low a quality, as pictures are that went through messengers."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from pipeline.conditions import Params
from pipeline.faults.base import AnySet, Neighbours, Sample

QUALITY = (4, 12)  # of IJG's 1 ... 100


class Jpeg(AnySet):
    """The picture encoded at quality 4 ... 12 and decoded; extracted maps show its blocks."""

    name = "jpeg"

    def apply(self, sample: Sample, rng: np.random.Generator, near: Neighbours) -> Params | None:
        """See `Fault`."""
        quality, out = int(rng.integers(QUALITY[0], QUALITY[1] + 1)), io.BytesIO()
        Image.fromarray(sample.image).save(out, "JPEG", quality=quality)
        with Image.open(out) as picture:
            sample.image = np.asarray(picture.convert("RGB"), np.uint8)
        return {"quality": quality}
