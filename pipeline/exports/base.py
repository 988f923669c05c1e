"""What a layout is asked for, and how the samples of a shard are handed to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from pipeline.contract.pictures import decode_image, encode_png


@dataclass(frozen=True)
class Item:
    """One sample as it is written.

    Attributes
    ----------
    name
        Its number within its split, eight digits: keys may hold anything, also what no file name may.
    image
        File contents as the dataset stores them; ``suffix`` is ``.jpg`` or ``.png``.
    maps
        Condition -> PNG of 8-bit RGB: one-bit PNGs, which the dataset stores, are read as booleans by some readers.
    facts
        ``key``, ``rank`` and whatever else the row says in words and numbers.
    """

    name: str
    image: bytes
    text: str
    maps: dict[str, bytes]
    facts: dict[str, Any]

    @property
    def suffix(self) -> str:
        """Of the picture's file."""
        return ".png" if self.image.startswith(b"\x89PNG") else ".jpg"


@dataclass(frozen=True)
class Finished:
    """What a layout needs to know for its last files: split -> table of ``name, suffix, text, key``."""

    folder: Path
    name: str
    image_size: int
    conditions: tuple[str, ...]
    index: dict[str, pa.Table]


class Layout(Protocol):
    """Files of another trainer."""

    @property
    def name(self) -> str:
        """As people write it after ``--to``."""

    @property
    def single(self) -> bool:
        """Takes one condition only."""

    def write(self, folder: Path, split: str, number: int, items: Iterator[Item], conditions: tuple[str, ...]) -> None:
        """Write the samples of one shard (the ``number``-th of its split). Doing it twice is doing it once."""

    def finish(self, export: Finished) -> None:
        """Write what describes the whole, when every shard is there."""


def items_of(table: pa.Table, first: int, conditions: tuple[str, ...]) -> Iterator[Item]:
    """Rows of a shard, the first of which is sample ``first`` of its split."""
    plain = [name for name in table.column_names if not pa.types.is_struct(table.schema.field(name).type)]
    for at in range(len(table)):
        row = table.slice(at, 1).to_pylist()[0]
        maps = {name: encode_png(decode_image(row[name]["bytes"])) for name in conditions}
        facts = {name: row[name] for name in plain if name != "text"}
        yield Item(f"{first + at:08d}", row["image"]["bytes"], row["text"], maps, facts)


def write_pairs(folder: Path, items: Iterator[Item], captions: bool) -> None:
    """``image/NAME.*`` (and ``NAME.txt`` beside it) with ``conditioning/NAME.png``: paired by their base names."""
    for part in ("image", "conditioning"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for item in items:
        (folder / "image" / f"{item.name}{item.suffix}").write_bytes(item.image)
        (folder / "conditioning" / f"{item.name}.png").write_bytes(next(iter(item.maps.values())))
        if captions:
            (folder / "image" / f"{item.name}.txt").write_text(item.text, encoding="utf-8")


def quoted(text: str | Path) -> str:
    """A basic string of TOML (and of JSON)."""
    return json.dumps(str(text), ensure_ascii=False)
