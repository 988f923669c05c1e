"""A map that lies beside its picture: another crop, an off-by-some in a resize."""

from __future__ import annotations

import numpy as np

from pipeline.conditions import Params
from pipeline.faults.base import AnySet, Neighbours, Sample

DISTANCE = (0.06, 0.15)  # of the side


class ShiftedMap(AnySet):
    """Every map moved by 6 to 15 % of the side in a random direction; what it leaves bare is black for edges and the
    nearest pixel otherwise.
    """

    name = "shifted_map"

    def apply(self, sample: Sample, rng: np.random.Generator, near: Neighbours) -> Params | None:
        """See `Fault`."""
        side = len(sample.map(sample.conditions[0]))
        angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(*DISTANCE) * side
        right, down = (round(length * f(angle)) for f in (np.cos, np.sin))
        for name in sample.conditions:
            shifted, far = sample.map(name), max(abs(right), abs(down))
            padding = {"mode": "constant"} if sample.is_binary(name) else {"mode": "edge"}
            wide = np.pad(shifted, ((far, far), (far, far), (0, 0)), **padding)  # type: ignore[call-overload]
            sample.set_map(name, wide[far - down : far - down + side, far - right : far - right + side])
        return {"right": int(right), "down": int(down)}
