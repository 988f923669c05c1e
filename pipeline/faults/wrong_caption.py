"""The caption of another sample: one of the three faults that ControlNet 1.1's notes name in the data of 1.0."""

from __future__ import annotations

import numpy as np

from pipeline.conditions import Params
from pipeline.faults.base import AnySet, Neighbours, Sample


class WrongCaption(AnySet):
    """Another row's text, which differs from this row's."""

    name = "wrong_caption"

    def apply(self, sample: Sample, rng: np.random.Generator, near: Neighbours) -> Params | None:
        """See `Fault`."""
        for other in near.others(["key", "text"]):
            if other["text"] and other["text"] != sample.row["text"]:
                sample.row["text"] = other["text"]
                return {"of": other["key"]}
        return None
