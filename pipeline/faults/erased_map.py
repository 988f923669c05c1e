"""A map of which a part is gone."""

from __future__ import annotations

import numpy as np

from pipeline.conditions import Params
from pipeline.conditions.base import uniform
from pipeline.faults.base import AnySet, Neighbours, Sample

SHARE = (0.3, 0.6)  # of the area


class ErasedMap(AnySet):
    """A rectangle of 30 to 60 % of every map is black: of eight places the one where the first map has most light."""

    name = "erased_map"

    def apply(self, sample: Sample, rng: np.random.Generator, near: Neighbours) -> Params | None:
        """See `Fault`."""
        first = sample.map(sample.conditions[0])
        side, share = len(first), uniform(rng, *SHARE)
        high = min(side, max(1, round(side * float(np.sqrt(share) * rng.uniform(0.8, 1.25)))))
        wide = min(side, max(1, round(side * side * share / high)))
        places = [(int(rng.integers(side - high + 1)), int(rng.integers(side - wide + 1))) for _ in range(8)]
        top, left = max(places, key=lambda p: int(first[p[0] : p[0] + high, p[1] : p[1] + wide].sum(dtype=np.int64)))
        if not first[top : top + high, left : left + wide].any():
            return None
        for name in sample.conditions:
            erased = sample.map(name)
            erased[top : top + high, left : left + wide] = 0
            sample.set_map(name, erased)
        return {"top": top, "left": left, "height": high, "width": wide}
