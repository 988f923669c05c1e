"""Atomic files and locked folders."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.contract.errors import CnlabError


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success fsync it and rename it into place, else remove it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.filename is None:  # libraries do not always say which file
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write pretty JSON atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, default=str) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; a missing or damaged file raises CnlabError naming it."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CnlabError(f"{path} does not exist; run the stage before this one first") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CnlabError(
            f"{path} is not valid JSON ({error}); delete it and run the stage that makes it again"
        ) from error


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this process; a second one gets a CnlabError at once."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise CnlabError(f"{folder} is in use by another process; wait for it or choose another name") from error
    try:
        yield
    finally:
        lock.release()
