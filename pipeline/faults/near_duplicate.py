"""A near-duplicate in place of a new picture: as many rows, fewer different ones."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.conditions import Params
from pipeline.conditions.base import uniform
from pipeline.contract.pictures import Picture
from pipeline.faults.base import AnySet, Neighbours, Sample, threshold

CANDIDATES = 16  # earlier rows looked at for one that stays undamaged at most doses
CROP = (0.0, 0.02)  # of the side, taken off each edge
LIGHT = (0.96, 1.04)  # factor of brightness


class NearDuplicate(AnySet):
    """Picture, caption and maps of an earlier row, cropped by up to 2 % on each edge and up to 4 % lighter or darker.

    Earlier, so that every subset that holds the copy holds its original. The copy is of that row as it was before any
    damage, so it has a twin in the set only while that row is not itself replaced. Of 16 draws among the earlier rows
    of this shard and the one before, the row whose own threshold is highest is taken, the same at any dose: at doses up
    to .8 it is undamaged in at least 1 - .8^16 = 97 % of cases, in fewer among the first rows of a set.
    """

    name = "near_duplicate"

    def apply(self, sample: Sample, rng: np.random.Generator, near: Neighbours) -> Params | None:
        """See `Fault`."""
        if near.at == 0:
            return None
        places = rng.integers(0, near.at, CANDIDATES)
        chosen = max(places, key=lambda at: threshold(near.seed, self.name, near.keys[at]))
        row, own = near.row(int(chosen)), {name: sample.row[name] for name in ("key", "rank", "split")}
        sample.row.update({**row, **own, "faults": sample.row.get("faults", "{}")})
        image = sample.image
        edges = [round(uniform(rng, *CROP) * len(image)) for _ in range(4)]
        for name in sample.conditions:
            if not sample.extractable(name):
                sample.set_map(name, _cropped(sample.map(name), edges, cv2.INTER_NEAREST))
        light = uniform(rng, *LIGHT)
        lit = np.clip(np.rint(_cropped(image, edges, cv2.INTER_LINEAR) * light), 0, 255)
        sample.image = lit.astype(np.uint8)
        return {"of": row["key"], "crop": edges, "light": light}


def _cropped(picture: Picture, edges: list[int], how: int) -> Picture:
    """Pixels off top, bottom, left and right, and back to the size before."""
    height, width = picture.shape[:2]
    top, bottom, left, right = edges
    inner = np.ascontiguousarray(picture[top : height - bottom, left : width - right])
    return np.asarray(cv2.resize(inner, (width, height), interpolation=how), np.uint8)
