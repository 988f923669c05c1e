"""What a fault is, and the sample and its neighbours that it works on."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline.conditions import Params, get_condition, weight_free
from pipeline.conditions.base import safe_quantise
from pipeline.contract.pictures import Picture, decode_image, encode_jpeg, encode_png
from pipeline.fidelity import other_samples
from pipeline.screen.duplicates import perceptual_hash, pixel_hash
from pipeline.screen.images import figures

Row = dict[str, Any]


class Fault(Protocol):
    """One kind of damage."""

    @property
    def name(self) -> str:
        """As people write it; the key in the column ``faults``."""

    def check(self, conditions: Sequence[str]) -> None:
        """Raise CnlabError when a set with these conditions cannot have this fault."""

    def apply(self, sample: Sample, rng: np.random.Generator, near: Neighbours) -> Params | None:
        """Damage ``sample`` in place.

        Returns
        -------
        dict or None
            What was done, JSON-able, for the row's column ``faults``; None when this sample cannot be damaged so (no
            other caption, a caption of one word ...), and then it is as it was.
        """


class AnySet:
    """A fault that every dataset can have."""

    def check(self, conditions: Sequence[str]) -> None:
        """Nothing to refuse."""


def threshold(seed: int, kind: str, key: str) -> float:
    """The dose, in [0, 1), above which the sample ``key`` is damaged: a hash, so that doses are nested."""
    digest = hashlib.sha256(f"fault\0{seed}\0{kind}\0{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


class Sample:
    """A dataset row whose picture, maps and caption can be replaced; what follows from them is kept true."""

    def __init__(self, row: Row, conditions: Sequence[str]) -> None:
        """``row`` is changed in place."""
        self.row, self.conditions = row, tuple(conditions)

    @property
    def image(self) -> Picture:
        """(S, S, 3) uint8."""
        return decode_image(self.row["image"]["bytes"])

    @image.setter
    def image(self, picture: Picture) -> None:
        """Store as the set stores pictures; figures, hashes and maps follow, for maps belong to the pixels as stored.

        Maps that came with the source or need weights stay as they are (`extractable`).
        """
        row = self.row
        png = row["image"]["bytes"].startswith(b"\x89PNG")
        row["image"] = {"bytes": encode_png(picture) if png else encode_jpeg(picture), "path": None}
        stored = self.image
        row.update({name: value for name, value in figures(stored).items() if name in row})
        if row.get("sha256"):
            row["sha256"] = pixel_hash(stored)
        if row.get("phash"):
            row["phash"] = perceptual_hash(stored)
        for name in self.conditions:
            if self.extractable(name):
                self.extract(name, self.params(name), stored)

    def extractable(self, condition: str) -> bool:
        """Whether this map can be made again from the picture, without weights."""
        return condition in weight_free() and not self.params(condition).get("given")

    def params(self, condition: str) -> Params:
        """What the map was drawn with."""
        params: Params = json.loads(self.row.get(f"{condition}_params") or '{"given": true}')
        return params

    def extract(self, condition: str, params: Params, image: Picture) -> None:
        """Replace a map by the one that ``params`` make of ``image``."""
        picture = get_condition(condition).extract(image, params)
        self.set_map(condition, safe_quantise(picture) if params.get("safe") else picture)
        self.row[f"{condition}_params"] = json.dumps(params, sort_keys=True)

    def map(self, condition: str) -> Picture:
        """(S, S, 3) uint8."""
        return decode_image(self.row[condition]["bytes"])

    def is_binary(self, condition: str) -> bool:
        """Stored with one bit a pixel: edges."""
        with Image.open(io.BytesIO(self.row[condition]["bytes"])) as picture:
            return picture.mode == "1"

    def set_map(self, condition: str, picture: Picture) -> None:
        """Store (S, S) or (S, S, 3) uint8 with as many channels and bits as the map before."""
        with Image.open(io.BytesIO(self.row[condition]["bytes"])) as before:
            mode = before.mode
        plain = picture[..., 0] if picture.ndim == 3 and mode in ("1", "L") else picture
        self.set_map_bytes(condition, encode_png(np.ascontiguousarray(plain), binary=mode == "1"))

    def set_map_bytes(self, condition: str, data: bytes) -> None:
        """Replace a map by stored bytes; the first condition's is ``conditioning_image`` too."""
        self.row[condition] = {"bytes": data, "path": None}
        if condition == self.conditions[0]:
            self.row["conditioning_image"] = self.row[condition]


class Neighbours:
    """The rows around one: where other captions, maps and pictures are taken from.

    They are the sample's shard and the one before it. Rows are in hash order, so a shard is a random sample of its set.
    """

    def __init__(self, rows: pa.Table, seed: int) -> None:
        """``rows``: in rank order; ``seed``: of the damage."""
        self.rows, self.seed, self.at = rows, seed, 0
        self.keys: list[str] = rows["key"].to_pylist()
        self._next = other_samples(self.keys) if len(self.keys) > 1 else np.zeros(1, np.intp)

    def row(self, at: int, columns: Sequence[str] = ()) -> Row:
        """One row as it was before any damage; all columns by default."""
        table = self.rows.select(list(columns)) if columns else self.rows
        row: Row = table.slice(at, 1).to_pylist()[0]
        return row

    def others(self, columns: Sequence[str]) -> Iterator[Row]:
        """Every other row, in the order of `pipeline.fidelity.other_samples`, beginning with the one after ours."""
        at = int(self._next[self.at])
        while at != self.at:
            yield self.row(at, columns)
            at = int(self._next[at])
