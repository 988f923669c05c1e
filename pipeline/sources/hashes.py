"""sha256 of a source's files: what they hold decides a dataset, not when they were copied or touched.

Each file is read once: its hash is remembered in the user's cache by path, size, times and inode.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from pipeline.contract.files import user_cache
from pipeline.contract.identity import sha256_file

TABLE = "CREATE TABLE IF NOT EXISTS hashes (path BLOB PRIMARY KEY, stamp TEXT, sha256 TEXT)"
SETTLED = 2.0  # seconds: a file that was changed less long ago may change again within the clock's resolution
READERS = 4  # hashing leaves the interpreter's lock, and network disks answer several at once


def content_hashes(paths: Sequence[Path]) -> list[str]:
    """sha256 (hex) of each file; "" for what is no regular file or cannot be read."""
    now = time.time_ns()
    keys, stamps = [_key(path) for path in paths], [_stamp(path) for path in paths]
    known = _recall(keys)
    entries = [known.get(key, ("", "")) for key in keys]
    wanting = [n for n, stamp in enumerate(stamps) if stamp and entries[n][0] != stamp]
    hashes = [sha256 if stamp else "" for stamp, (_, sha256) in zip(stamps, entries, strict=True)]
    with ThreadPoolExecutor(READERS) as readers:
        new = readers.map(_hash, [paths[n] for n in wanting])
        # shown only where it takes a while
        for n, sha256 in zip(wanting, tqdm(new, "source", len(wanting), delay=5, unit="file"), strict=True):
            hashes[n] = sha256
    _remember([
        (keys[n], stamps[n], hashes[n]) for n in wanting if hashes[n] and now - _changed(stamps[n]) > SETTLED * 1e9
    ])  # fmt: skip
    return hashes


def _key(path: Path) -> bytes:
    return os.fsencode(os.path.realpath(path))


def _stamp(path: Path) -> str:
    """What changes whenever a regular file's content may have; "" of anything else."""
    try:
        entry = path.stat()
    except (OSError, RuntimeError):  # a dangling link, links in a circle
        return ""
    fields = (entry.st_size, entry.st_mtime_ns, entry.st_ctime_ns, entry.st_ino)
    return " ".join(map(str, fields)) if stat.S_ISREG(entry.st_mode) else ""


def _changed(stamp: str) -> int:
    """When the file's status last changed, in nanoseconds."""
    return int(stamp.split()[2])


def _hash(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError:
        return ""


def _open() -> sqlite3.Connection:
    folder = user_cache()
    folder.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(folder / "hashes.sqlite", timeout=10)
    connection.execute(TABLE)
    return connection


def _recall(keys: Sequence[bytes]) -> dict[bytes, tuple[str, str]]:
    """Stamp and hash of the files that are known; a memory that cannot be read is none."""
    try:
        with closing(_open()) as memory:
            rows = (
                memory.execute("SELECT path, stamp, sha256 FROM hashes WHERE path = ?", (key,)).fetchone()
                for key in keys
            )
            return {row[0]: (row[1], row[2]) for row in rows if row}
    except (sqlite3.Error, OSError):
        return {}


def _remember(rows: Sequence[tuple[bytes, str, str]]) -> None:
    try:
        with closing(_open()) as memory, memory:
            memory.executemany("REPLACE INTO hashes VALUES (?, ?, ?)", rows)
    except (sqlite3.Error, OSError):  # then they are read again next time
        return
