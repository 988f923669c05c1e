"""The folder ``data/NAME``: names of its files, header, and the one reader."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset  # read_table would import it at its first call, when everything waits for the card
import pyarrow.parquet as pq

from pipeline.contract.errors import CnlabError, first_line
from pipeline.contract.files import read_json
from pipeline.contract.identity import fingerprint, sha256_file

FORMAT = 2  # of the folder's layout; raised when old folders can no longer be read
HEADER = "dataset.json"
BEFORE = f".{HEADER}.before"  # the header while a repair is under way
CLAIM = ".build.json"  # whose folder this is, and the options to make it again
LEDGER = ".shards.jsonl"  # sha256 of each finished shard
REJECTS = "rejects.parquet"
REJECT_COLUMNS = ("key", "rank", "split", "reason", "detail", "thumbnail", "figures")


@dataclass(frozen=True)
class Shard:
    """A finished shard: file name, split, number of rows, sha256 of the file."""

    file: str
    split: str
    rows: int
    sha256: str


def read_header(folder: Path) -> dict[str, Any]:
    """The header, also of a set whose repair was interrupted. Raises CnlabError when there is none."""
    for name in (HEADER, BEFORE):
        if (folder / name).is_file():
            header: dict[str, Any] = read_json(folder / name)
            return header
    raise CnlabError(f"{folder} is not a finished dataset (no {HEADER}); run cnlab-dataset build first")


class Triplets:
    """A dataset folder, opened read-only and checked for completeness."""

    def __init__(self, folder: Path) -> None:
        """Raises CnlabError when ``folder`` is not a finished dataset."""
        if not (folder / HEADER).is_file():
            raise CnlabError(f"{folder} is not a finished dataset (no {HEADER}); run make dataset first")
        self.folder = folder
        self.header: dict[str, Any] = read_json(folder / HEADER)
        try:
            self.fingerprint: str = self.header["fingerprint"]
            self.condition: str = self.header["conditions"][0]
        except (KeyError, TypeError, IndexError) as error:
            raise CnlabError(
                f"{folder / HEADER} is damaged (it lacks {first_line(error)}); put a copy of it back, or delete it and "
                "build the dataset again with the options that it was built with"
            ) from error

    def verify(self) -> None:
        """Compare every shard with its sha256 in the header; raises CnlabError naming the first damaged one."""
        for shard in self.header["shards"]:
            path = self.folder / shard["file"]
            if not path.is_file() or sha256_file(path) != shard["sha256"]:
                raise CnlabError(
                    f"{path} is missing or damaged; repair with cnlab-dataset verify --folder {self.folder} --repair"
                )

    def table(self, split: str, columns: list[str], count: int | None = None) -> pa.Table:
        """The first ``count`` rows of ``split`` (all by default), in rank order.

        Raises CnlabError when there are fewer.
        """
        have = self.count(split)
        end = have if count is None else count
        if end > have:
            raise CnlabError(f"{self.folder} has {have} {split} samples, {end} were asked for")
        return self.rows(split, columns, 0, end)

    def count(self, split: str) -> int:
        """Number of rows of a split."""
        return sum(int(s["rows"]) for s in self.header["shards"] if s["split"] == split)

    def rows(self, split: str, columns: list[str], first: int, end: int) -> pa.Table:
        """Rows ``first`` ... ``end`` - 1 of ``split`` in rank order; only the shards that hold them are read."""
        parts, start = [], 0
        for shard in self.header["shards"]:
            if shard["split"] != split:
                continue
            stop = start + int(shard["rows"])
            if start < end and stop > first:
                table = pq.read_table(self.folder / shard["file"], columns=columns)
                parts.append(table.slice(max(first - start, 0), min(end, stop) - max(first, start)))
            start = stop
        return pa.concat_tables(parts)

    def take(self, split: str, columns: list[str], indices: list[int]) -> pa.Table:
        """Rows of ``split`` by their index in rank order, in the order of ``indices``; no other row groups are read."""
        order = sorted(range(len(indices)), key=lambda i: indices[i])
        parts, start, done = [], 0, 0
        for shard in self.header["shards"]:
            if shard["split"] != split:
                continue
            stop = start + int(shard["rows"])
            inside = []
            while done < len(order) and indices[order[done]] < stop:
                inside.append(indices[order[done]] - start)
                done += 1
            if inside:
                parts.append(_take_rows(self.folder / shard["file"], columns, inside))
            start = stop
        if done < len(order):
            raise CnlabError(f"{self.folder} has {start} {split} samples, sample {indices[order[done]]} was asked for")
        places = sorted(range(len(order)), key=lambda i: order[i])
        return pa.concat_tables(parts).take(places)


def shards_fingerprint(shards: list[dict[str, Any]], split: str) -> str:
    """By which later stages recognise a split wherever it stands: the sums of its shards."""
    return fingerprint([s["sha256"] for s in shards if s["split"] == split])


def _take_rows(path: Path, columns: list[str], rows: list[int]) -> pa.Table:
    """Rows of a shard by their ascending index."""
    with pq.ParquetFile(path) as file:
        ends = list(accumulate(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)))
        owner = [bisect_right(ends, row) for row in rows]
        groups, place, read = sorted(set(owner)), {}, 0
        for group in groups:
            size = file.metadata.row_group(group).num_rows
            place[group], read = read - (ends[group] - size), read + size
        table = file.read_row_groups(groups, columns=columns)
    return table.take([row + place[group] for row, group in zip(rows, owner, strict=True)])


def first_rows(folder: Path, shards: list[dict[str, Any]], split: str, count: int, columns: list[str]) -> list[Any]:
    """The first ``count`` rows of a split, in rank order."""
    rows: list[Any] = []
    for shard in shards:
        if shard["split"] == split and len(rows) < count:
            with pq.ParquetFile(folder / shard["file"]) as file:
                for batch in file.iter_batches(min(count, 64), columns=columns):
                    rows += batch.to_pylist()
                    if len(rows) >= count:
                        break
    return rows[:count]


def read_columns(folder: Path, shards: list[dict[str, Any]], split: str, columns: list[str]) -> pa.Table:
    """Columns of a whole split, without its pictures: compact, so that a large set can be described too."""
    parts = [pq.read_table(folder / s["file"], columns=columns) for s in shards if s["split"] == split]
    return pa.concat_tables(part.replace_schema_metadata(None) for part in parts)
