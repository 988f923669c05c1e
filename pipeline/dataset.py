"""Reading a finished dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.io import CnlabError, read_json, sha256_file
from pipeline.seal import HEADER


class Triplets:
    """A dataset folder, opened read-only and checked for completeness."""

    def __init__(self, folder: Path) -> None:
        """Raises CnlabError when ``folder`` is not a finished dataset."""
        if not (folder / HEADER).is_file():
            raise CnlabError(f"{folder} is not a finished dataset (no {HEADER}); run make dataset first")
        self.folder = folder
        self.header: dict[str, Any] = read_json(folder / HEADER)
        self.fingerprint: str = self.header["fingerprint"]
        self.condition: str = self.header["conditions"][0]

    def verify(self) -> None:
        """Compare every shard with its sha256 in the header; raises CnlabError naming the first damaged one."""
        for shard in self.header["shards"]:
            path = self.folder / shard["file"]
            if not path.is_file() or sha256_file(path) != shard["sha256"]:
                raise CnlabError(f"{path} is missing or damaged; repair with cnlab-dataset verify --repair")

    def table(self, split: str, columns: list[str], count: int | None = None) -> pa.Table:
        """The first ``count`` rows of ``split`` (all by default), in rank order.

        Raises CnlabError when there are fewer.
        """
        have = self.count(split)
        wanted = have if count is None else count
        if wanted > have:
            raise CnlabError(f"{self.folder} has {have} {split} samples, {wanted} were asked for")
        return self.rows(split, columns, 0, wanted)

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
