"""Condition maps: one flat, memory-mapped file of encoded pictures, and the one way from a stored map to a hint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.conditions.inpaint import signed_map
from pipeline.contract.dataset import Triplets
from pipeline.contract.files import atomic, read_json, write_json
from pipeline.contract.identity import fingerprint
from pipeline.contract.pictures import decode_image
from trainer.data.cache import CHUNK, cache_folder, sole_writer
from trainer.data.encode import rows_of
from trainer.run_folder import SIGNED


def stored_hint(picture: NDArray[np.uint8], signed: bool = False) -> Tensor:
    """A stored map (H, W, 3) uint8 -> (1 or 3, H, W) as it travels to the device: one channel where all are equal.

    ``signed``: `pipeline.conditions.inpaint.signed_map`.
    """
    if signed:
        return torch.from_numpy(np.ascontiguousarray(signed_map(picture).transpose(2, 0, 1)))
    grey = picture[..., :1]
    channels: NDArray[Any] = grey if (picture == grey).all() else picture
    return torch.from_numpy(np.ascontiguousarray(channels.transpose(2, 0, 1)))


def to_hint(stored: Tensor) -> Tensor:
    """`stored_hint` of a batch, (B, 1 or 3, H, W) -> what a ControlNet takes: (B, 3, H, W) float32 in [0, 1] or -1."""
    return (stored.float() / 255).expand(-1, 3, -1, -1)


def hints_of(pictures: NDArray[np.uint8], signed: bool = False) -> Tensor:
    """Maps (N, H, W, 3) uint8 -> (N, 3, H, W) float32, as the loop feeds them."""
    return torch.cat([to_hint(stored_hint(picture, signed)[None]) for picture in pictures])


@dataclass(frozen=True)
class Maps:
    """Encoded maps (PNG bytes) behind each other in one file, which all ranks and loading processes share."""

    data: NDArray[np.uint8]  # (bytes,), memory-mapped
    spans: NDArray[np.int64]  # (N, 2): where each map begins and ends
    signed: bool = False  # see `stored_hint`

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, index: int) -> Tensor:
        """`stored_hint` of a map."""
        first, end = self.spans[index]
        return stored_hint(decode_image(self.data[first:end].tobytes()), self.signed)


def map_store(triplets: Triplets, split: str, rows: NDArray[np.int64]) -> Maps:
    """Maps of ``rows``, in their order, from a flat file that is written once and then memory-mapped."""
    identity = {"dataset": triplets.fingerprint, "split": split, "rows": fingerprint(rows.tolist())}
    path = cache_folder(triplets.folder, triplets.fingerprint) / f"maps-{fingerprint(identity)[:16]}"
    data, index, record = (path.with_name(path.name + end) for end in (".bin", ".npy", ".json"))
    with sole_writer(path):
        if not record.is_file() or not data.is_file() or data.stat().st_size != read_json(record).get("bytes"):
            _write(triplets, split, rows, data, index)
            write_json(record, {"dataset": triplets.fingerprint, "maps": len(rows), "bytes": data.stat().st_size})
    return Maps(np.memmap(data, np.uint8, "r"), np.load(index, mmap_mode="r"), triplets.condition in SIGNED)


def _write(triplets: Triplets, split: str, rows: NDArray[np.int64], data: Path, index: Path) -> None:
    """Maps lie in the file in the dataset's order, whatever the order of ``rows``: each shard is read once."""
    ascending = np.argsort(rows, kind="stable")
    spans = np.zeros((len(rows), 2), np.int64)
    offset = 0
    with atomic(data) as temporary, temporary.open("wb") as out:
        for first in range(0, len(rows), CHUNK):
            chunk = ascending[first : first + CHUNK]
            for item, picture in zip(chunk, rows_of(triplets, split, "conditioning_image", rows[chunk]), strict=True):
                out.write(picture["bytes"])
                spans[item] = offset, offset + len(picture["bytes"])
                offset += len(picture["bytes"])
    with atomic(index) as temporary, temporary.open("wb") as out:
        np.save(out, spans)
