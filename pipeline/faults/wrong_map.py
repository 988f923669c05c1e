"""The map of another sample."""

from __future__ import annotations

import numpy as np

from pipeline.conditions import Params
from pipeline.faults.base import AnySet, Neighbours, Sample


class WrongMap(AnySet):
    """All maps of another row, whose first map differs from this one's."""

    name = "wrong_map"

    def apply(self, sample: Sample, rng: np.random.Generator, near: Neighbours) -> Params | None:
        """See `Fault`."""
        params = [name for name in (f"{c}_params" for c in sample.conditions) if name in sample.row]
        first = sample.map(sample.conditions[0])
        for other in near.others(["key", *sample.conditions, *params]):
            if np.array_equal(Sample(other, sample.conditions).map(sample.conditions[0]), first):
                continue
            for name in sample.conditions:
                sample.set_map_bytes(name, other[name]["bytes"])
            sample.row.update({name: other[name] for name in params})
            return {"of": other["key"]}
        return None
