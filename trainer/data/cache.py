"""Rows that are computed once and read ever after: a flat file of float16 beside a list of what it holds."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.contract.errors import CnlabError
from pipeline.contract.files import read_json, remove, user_cache, write_json
from trainer.parallel import ALONE, Ranks

SOURCE = "source.json"  # of a folder in the user's cache: the dataset that it belongs to
CHUNK = 256  # rows between two entries of the list: what a kill or a damage costs
#: Row numbers (k,) -> (k, *shape) values, cast to float16
Compute = Callable[[NDArray[np.int64]], NDArray[Any]]


def cache_folder(dataset: Path, fingerprint: str) -> Path:
    """``.cache`` of a dataset's folder; where that cannot be written, one of its fingerprint in the user's cache."""
    own = dataset / ".cache"
    if os.access(own if own.exists() else dataset, os.W_OK):
        return own
    return user_cache() / fingerprint[:16]


def prune(folder: Path, dataset: str, place: Path | None = None) -> None:
    """Remove what was cached in ``folder`` for another state of the dataset than the one of this fingerprint.

    Beside a folder in the user's cache, those of other states of the dataset at ``place`` go.
    """
    if place is not None and folder.parent == user_cache():
        source = str(place.resolve())
        for record in user_cache().glob(f"*/{SOURCE}"):
            if record.parent != folder and read_json(record) == source:
                remove(record.parent)
        write_json(folder / SOURCE, source)
    for record in folder.glob("*-*.json"):
        try:
            owner = read_json(record).get("dataset")
        except (CnlabError, AttributeError):
            continue  # damaged: its reader says so and computes again
        if owner != dataset:
            for path in folder.glob(f"{record.stem}.*"):
                remove(path)


@contextmanager
def sole_writer(path: Path) -> Iterator[None]:
    """Hold the lock beside ``path``: runs that share a cache fill it one after another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(path.name + ".lock")):
        yield


@dataclass(frozen=True)
class RowCache:
    """``path``.f16 with ``path``.json: ``total`` rows of a shape, computed as they are needed, in any order.

    A killed run leaves whole chunks of 256 rows, which the next one uses. A file that was touched since its last use
    is checked against its sha256, chunk by chunk, and damaged chunks are computed again.
    """

    path: Path
    shape: tuple[int, ...]
    total: int
    label: str
    dataset: str = ""  # fingerprint of the dataset's state, see `prune`

    @property
    def _file(self) -> Path:
        return self.path.with_name(self.path.name + ".f16")

    @property
    def _list(self) -> Path:
        return self.path.with_name(self.path.name + ".json")

    @property
    def ready(self) -> int:
        """Number of rows that are there, by the list."""
        return sum(len(rows) for rows, _ in self._chunks()[0].values())

    def rows(self, needed: NDArray[np.int64], compute: Compute, ranks: Ranks = ALONE) -> NDArray[np.float16]:
        """All rows, memory-mapped read-only, (total, *shape) float16, those of ``needed`` computed.

        ``ranks``: called by all of them at once, each computes its share of the chunks; other runs wait for the first.
        """
        with sole_writer(self.path) if ranks.first else nullcontext():
            if ranks.first:
                self._prepare()
            ranks.wait()
            self._fill(needed, compute, ranks)
            ranks.wait()
        return np.memmap(self._file, np.float16, "r", shape=(self.total, *self.shape))

    def _prepare(self) -> None:
        """The file in its size, and a list of chunks that are whole."""
        size = int(np.prod(self.shape))
        chunks, stamp = self._chunks()
        if not self._file.exists() or self._file.stat().st_size != 2 * size * self.total:
            if chunks:
                print(f"{self._file} is damaged (its size is wrong); computing it again", flush=True)
            chunks = {}
            with self._file.open("wb") as out:
                out.truncate(2 * size * self.total)  # sparse: disk is taken as rows are written
        if stamp != self._stamp():
            rows = np.memmap(self._file, np.float16, "r", shape=(self.total, size))
            for first, (present, digest) in list(chunks.items()):
                if _digest(rows[present]) != digest:
                    print(f"{self._file}: rows from {first} are damaged; computing them again", flush=True)
                    del chunks[first]
            self._write(chunks)

    def _fill(self, needed: NDArray[np.int64], compute: Compute, ranks: Ranks) -> None:
        size = int(np.prod(self.shape))
        rows = np.memmap(self._file, np.float16, "r", shape=(self.total, size))
        todo = _missing(needed, {first: present for first, (present, _) in self._chunks()[0].items()})
        own = dict(list(todo.items())[ranks.rank :: ranks.world])
        ranks.wait()  # all have read the list before one writes
        label = self.label if ranks.world == 1 else f"{self.label} (rank {ranks.rank})"
        with tqdm(total=len(own), desc=label, unit="chunk", mininterval=1, disable=not own) as bar:
            for first, numbers in own.items():
                values = compute(numbers).astype(np.float16).reshape(len(numbers), size)
                if not np.isfinite(values).all():
                    raise CnlabError(f"{self.label}: rows {numbers[0]} to {numbers[-1]} hold values float16 cannot")
                with FileLock(self.path.with_name(self.path.name + ".list.lock")):
                    self._put(numbers, values)
                    chunks = self._chunks()[0]
                    present = np.union1d(chunks[first][0], numbers) if first in chunks else numbers
                    self._write({**chunks, first: (present, _digest(rows[present]))})
                bar.update()

    def _put(self, numbers: NDArray[np.int64], values: NDArray[np.float16]) -> None:
        """Write rows through the file: into a map of it a full disk would kill the process."""
        done = 0
        with self._file.open("r+b") as out:
            for first, end in _spans(numbers):
                out.seek(first * values[0].nbytes)
                out.write(values[done : done + end - first].tobytes())
                done += end - first
            out.flush()
            os.fsync(out.fileno())

    def _stamp(self) -> list[int]:
        stat = self._file.stat()
        return [stat.st_size, stat.st_mtime_ns, stat.st_ino]

    def _write(self, chunks: dict[int, tuple[NDArray[np.int64], str]]) -> None:
        listed = {first: {"sha256": digest, "rows": _spans(present)} for first, (present, digest) in chunks.items()}
        record = {"dataset": self.dataset, "shape": list(self.shape), "total": self.total}
        write_json(self._list, {**record, "stamp": self._stamp(), "chunks": listed})

    def _chunks(self) -> tuple[dict[int, tuple[NDArray[np.int64], str]], list[int]]:
        """First row -> (rows that are there, their sha256) of each chunk, and the file's stamp; none when damaged."""
        if not self._list.exists():
            return {}, []
        try:
            record = read_json(self._list)
            if record["shape"] == list(self.shape) and record["total"] == self.total:
                chunks = {int(k): (_numbers(v["rows"]), str(v["sha256"])) for k, v in record["chunks"].items()}
                return chunks, list(record["stamp"])
        except (CnlabError, KeyError, TypeError, AttributeError, ValueError):
            print(f"{self._list} is damaged; computing the rows again", flush=True)
        return {}, []


def _missing(needed: NDArray[np.int64], present: dict[int, NDArray[np.int64]]) -> dict[int, NDArray[np.int64]]:
    """First row of a chunk -> those of the needed rows in it that are not there, ascending."""
    needed = np.unique(needed)
    missing: dict[int, NDArray[np.int64]] = {}
    for first in np.unique(needed // CHUNK) * CHUNK:
        numbers = needed[(needed >= first) & (needed < first + CHUNK)]
        numbers = np.setdiff1d(numbers, present.get(int(first), np.empty(0, np.int64)))
        if len(numbers):
            missing[int(first)] = numbers
    return missing


def _spans(numbers: NDArray[np.int64]) -> list[list[int]]:
    """Ascending numbers as [first, end) spans."""
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    return [[int(part[0]), int(part[-1]) + 1] for part in np.split(numbers, breaks)]


def _numbers(spans: list[list[int]]) -> NDArray[np.int64]:
    return np.concatenate([np.arange(first, end, dtype=np.int64) for first, end in spans])


def _digest(rows: NDArray[np.float16]) -> str:
    return hashlib.sha256(rows.tobytes()).hexdigest()
