"""Rows that are computed once and read ever after: a flat file of float16 beside a list of its chunks' sha256."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.contract.errors import CnlabError
from pipeline.contract.files import read_json, write_json

CHUNK = 256  # rows between two entries of the list: what a kill or a damage costs

#: (first row, end row) -> (end - first, *shape) values, cast to float16
Make = Callable[[int, int], NDArray[Any]]


@dataclass(frozen=True)
class RowCache:
    """``path``.f16 with ``path``.json: total rows of a shape, made in chunks of 256, in order, as they are needed.

    Whole chunks are made even when fewer rows are asked for, so the bits of a row never depend on who asked first.
    A killed run leaves whole chunks, which the next one keeps. Damaged chunks are found by their sha256 and made again.
    """

    path: Path
    shape: tuple[int, ...]
    total: int
    label: str

    @property
    def _file(self) -> Path:
        return self.path.with_name(self.path.name + ".f16")

    @property
    def _list(self) -> Path:
        return self.path.with_name(self.path.name + ".json")

    @property
    def ready(self) -> int:
        """Rows that are there, by the list."""
        return min(len(self._sums()) * CHUNK, self.total)

    def rows(self, count: int, make: Make) -> NDArray[np.float16]:
        """The first ``count`` rows, memory-mapped read-only, (count, *shape) float16."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name(self.path.name + ".lock")):  # several runs may share it: the others wait
            self._fill(min(-(-count // CHUNK) * CHUNK, self.total), make)
        return np.memmap(self._file, np.float16, "r", shape=(self.total, *self.shape))[:count]

    def _fill(self, wanted: int, make: Make) -> None:
        size = int(np.prod(self.shape))
        sums = self._sums()
        if not self._file.exists() or self._file.stat().st_size != 2 * size * self.total:
            if sums:
                print(f"{self._file} is damaged (its size is wrong); making it again", flush=True)
            sums = {}
            with self._file.open("wb") as out:
                out.truncate(2 * size * self.total)  # sparse: disk is taken as rows are written
        rows = np.memmap(self._file, np.float16, "r+", shape=(self.total, size))
        starts = range(0, wanted, CHUNK)
        for first in starts:
            if first in sums and _digest(rows[first : first + CHUNK]) != sums[first]:
                print(f"{self._file}: rows from {first} are damaged; making them again", flush=True)
                del sums[first]
        todo = [first for first in starts if first not in sums]
        with tqdm(total=len(todo), desc=self.label, unit="chunk", mininterval=1, disable=not todo) as bar:
            for first in todo:
                end = min(first + CHUNK, self.total)
                made = make(first, end).astype(np.float16).reshape(end - first, size)
                if not np.isfinite(made).all():
                    raise CnlabError(f"{self.label}: rows {first} to {end} hold values that float16 cannot")
                rows[first:end] = made
                rows.flush()
                sums[first] = _digest(rows[first:end])
                write_json(self._list, {"shape": list(self.shape), "total": self.total, "sha256": sums})
                bar.update()

    def _sums(self) -> dict[int, str]:
        """First row -> sha256 of each finished chunk; none when the list is absent or of another shape or damaged."""
        if not self._list.exists():
            return {}
        try:
            found = read_json(self._list)
            if found["shape"] == list(self.shape) and found["total"] == self.total:
                return {int(k): str(v) for k, v in found["sha256"].items()}
        except (CnlabError, KeyError, TypeError, AttributeError, ValueError):
            print(f"{self._list} is damaged; making the rows again", flush=True)
        return {}


def _digest(rows: NDArray[np.float16]) -> str:
    return hashlib.sha256(rows.tobytes()).hexdigest()
