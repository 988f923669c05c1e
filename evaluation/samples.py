"""The pictures that everything is judged by: the first samples of a dataset's split, read a part at a time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.contract.dataset import Triplets, shards_fingerprint
from pipeline.contract.errors import CnlabError
from pipeline.contract.pictures import Pictures, decode_image, stack_images
from pipeline.fidelity import other_samples

Indices = NDArray[np.intp]


def split_fingerprint(dataset: Triplets, split: str = "eval") -> str:
    """What recognises a split wherever it stands: the header's ``eval_fingerprint``, else its shards' sha256.

    Variants of a dataset (damaged, selected) have the training pictures changed and the eval split in common, so that
    what was trained on them is compared on the same pictures.
    """
    recorded = dataset.header.get("eval_fingerprint") if split == "eval" else None
    return str(recorded or shards_fingerprint(dataset.header["shards"], split))


class EvalSet:
    """The first ``count`` samples of a split in rank order; pictures and maps are read when asked for.

    Attributes
    ----------
    name, fingerprint : str
        Of the dataset, and of its split (`split_fingerprint`).
    conditions : tuple of str
        The map columns; several for several ControlNets at once.
    keys, texts : tuple of str
        Of the N samples.
    other : (N,) intp
        Sample of the whole split whose map each one gets where a wrong map is wanted. A function of the split, so that
        more pictures leave those that were there as they are.
    """

    def __init__(self, folder: Path, conditions: Sequence[str], count: int, split: str = "eval") -> None:
        """Raises CnlabError for a dataset without the conditions or without such a split."""
        self.folder, self.split, self.conditions = folder, split, tuple(conditions)
        self.dataset = Triplets(folder)
        there = self.dataset.header["conditions"]
        for condition in self.conditions:
            if condition not in there:
                raise CnlabError(
                    f"{folder} has no condition {condition!r} (it has {', '.join(there)}); choose another --dataset"
                )
        have = self.dataset.count(split)
        if have < 2:
            raise CnlabError(f"{folder} has {have} {split} samples, at least 2 are needed; choose another --dataset")
        rows = self.dataset.table(split, ["key", "text"])
        keys, count = rows["key"].to_pylist(), min(count, have)
        self.name, self.fingerprint = str(self.dataset.header["name"]), split_fingerprint(self.dataset, split)
        self.keys, self.texts = tuple(keys[:count]), tuple(rows["text"].to_pylist()[:count])
        self.other: Indices = other_samples(keys)[:count]
        self.position = {key: index for index, key in enumerate(self.keys)}

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def condition(self) -> str:
        """Name of the condition, or of several joined by ``+``, for the column of that name."""
        return "+".join(self.conditions)

    @cached_property
    def size(self) -> int:
        """Pixels of a side."""
        return int(self.images(np.array([0])).shape[1])

    def images(self, indices: Indices) -> Pictures:
        """Real pictures, (B, S, S, 3) uint8."""
        rows = self.dataset.take(self.split, ["image"], indices.tolist()).to_pylist()
        where = f"{self.folder}, {self.split} split"
        return stack_images([decode_image(row["image"]["bytes"], where) for row in rows], where, 1)

    def maps(self, condition: str, indices: Indices) -> tuple[Pictures, list[dict[str, Any]]]:
        """Maps (B, S, S, 3) uint8 and the parameters that each was drawn with; ``indices`` count the whole split."""
        column = f"{condition}_params"
        rows = self.dataset.take(self.split, [condition, column], indices.tolist()).to_pylist()
        where = f"{self.folder}, {self.split} split, {condition} maps"
        maps = stack_images([decode_image(row[condition]["bytes"], where) for row in rows], where, 1)
        return maps, [json.loads(row[column]) for row in rows]

    def parts(self, size: int, indices: Indices | None = None) -> list[Indices]:
        """Indices in parts of ``size``, to be worked through one after another."""
        whole = np.arange(len(self)) if indices is None else indices
        return [whole[start : start + size] for start in range(0, len(whole), size)]
