"""What an evaluation reads: the run under test and the pictures it is tested on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.contract.errors import CnlabError
from pipeline.contract.pictures import Pictures, stack_images


@dataclass(frozen=True)
class Samples:
    """N samples of a split in rank order, decoded. ``params`` are those each map was drawn with."""

    name: str  # of the dataset
    fingerprint: str  # of the dataset
    condition: str
    keys: tuple[str, ...]
    texts: tuple[str, ...]
    images: Pictures  # (N, S, S, 3) uint8
    maps: Pictures  # (N, S, S, 3) uint8
    params: tuple[dict[str, Any], ...]
    weights: str = ""  # of the condition's extractor, where it has any: a folder or hub name

    def __len__(self) -> int:
        return len(self.keys)


def load_samples(folder: Path, condition: str, count: int, split: str = "eval") -> Samples:
    """The first ``count`` samples of a split, or all where there are fewer."""
    from pipeline.contract.dataset import Triplets
    from pipeline.contract.pictures import decode_image

    dataset = Triplets(folder)
    have = sum(int(s["rows"]) for s in dataset.header["shards"] if s["split"] == split)
    if condition not in dataset.header["conditions"]:
        there = ", ".join(dataset.header["conditions"])
        raise CnlabError(f"{folder} has no condition {condition!r} (it has {there}); choose another --dataset")
    if not have:
        raise CnlabError(f"{folder} has no {split} samples")
    columns = ["key", "text", "image", condition, f"{condition}_params"]
    rows = dataset.table(split, columns, min(count, have)).to_pylist()
    where = f"{folder}, {split} split"
    return Samples(
        str(dataset.header["name"]),
        dataset.fingerprint,
        condition,
        tuple(row["key"] for row in rows),
        tuple(row["text"] for row in rows),
        stack_images([decode_image(row["image"]["bytes"]) for row in rows], where),
        stack_images([decode_image(row[condition]["bytes"]) for row in rows], f"{where}, {condition} maps"),
        tuple(json.loads(row[f"{condition}_params"]) for row in rows),
    )
