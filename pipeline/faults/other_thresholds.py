"""A map by another setting of its annotator than the rest of the set: far more marks, or far fewer."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from pipeline.conditions import Params
from pipeline.contract.errors import CnlabError
from pipeline.faults.base import Neighbours, Sample

#: Condition -> its parameters that decide how strong an edge, or how long a line, has to be.
STRENGTH = {"canny": ("low", "high"), "softedge": ("half",), "scribble": ("step",), "lines": ("length",)}
FACTORS = (0.2, 2.5)  # ranges of the set itself are about a factor of 3 wide


class OtherThresholds:
    """Thresholds of the row's own map times 0.2 or 2.5; ``<condition>_params`` says what the map was made with."""

    name = "other_thresholds"

    def check(self, conditions: Sequence[str]) -> None:
        """Some condition must have thresholds."""
        if not set(conditions) & set(STRENGTH):
            raise CnlabError(
                f"other_thresholds needs one of the conditions {', '.join(STRENGTH)}; this set has "
                f"{', '.join(conditions)}"
            )

    def apply(self, sample: Sample, rng: np.random.Generator, near: Neighbours) -> Params | None:
        """See `Fault`."""
        factor = FACTORS[int(rng.integers(2))]
        names = [name for name in sample.conditions if name in STRENGTH and sample.extractable(name)]
        for name in names:
            params = sample.params(name)
            for strength in STRENGTH[name]:
                params[strength] = type(params[strength])(round(params[strength] * factor, 4))
            sample.extract(name, json.loads(json.dumps(params)), sample.image)
        return {"factor": factor} if names else None
