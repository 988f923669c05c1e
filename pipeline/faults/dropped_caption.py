"""No caption."""

from __future__ import annotations

import numpy as np

from pipeline.conditions import Params
from pipeline.faults.base import AnySet, Neighbours, Sample


class DroppedCaption(AnySet):
    """An empty text, whatever else was done to it."""

    name = "dropped_caption"

    def apply(self, sample: Sample, rng: np.random.Generator, near: Neighbours) -> Params | None:
        """See `Fault`."""
        if not sample.row["text"]:
            return None
        sample.row["text"] = ""
        return {}
