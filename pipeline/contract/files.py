"""Atomic files and locked folders."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.contract.errors import CnlabError, FolderInUseError

LOCK = ".lock"


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` for a file or a folder; on success fsync it and rename it into place.

    Whatever goes wrong, ``path`` stays as it was and the temporary one is removed. A folder in its place steps aside
    first and is removed last. A killed process leaves a hidden ``.NAME.PID.part``; `remove_parts` sweeps those.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    remove(temporary)  # of a killed process that had this one's number
    try:
        yield temporary
        for file in [p for p in temporary.rglob("*") if p.is_file()] if temporary.is_dir() else [temporary]:
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        if path.is_dir():
            aside = path.with_name(f".{path.name}.{os.getpid()}.old.part")
            path.replace(aside)
            temporary.replace(path)
            remove(aside)
        else:
            temporary.replace(path)
    except OSError as error:
        if error.filename is None:  # libraries do not always say which file
            error.filename = str(path)
        raise
    except Exception as error:
        number = re.search(r"\(os error (\d+)\)", str(error))  # safetensors', which is no OSError
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
    finally:
        remove(temporary)


def remove(path: Path) -> None:
    """Remove a file or a folder; one that is not there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """Remove what killed writers left in ``folder`` (see `atomic`)."""
    for part in folder.glob(".*.part"):
        remove(part)


def user_cache() -> Path:
    """The folder in the user's cache for what can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "controlnet-lab"


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
    """Hold ``folder`` for this process; a second one gets a FolderInUseError at once."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise CnlabError(f"{folder} is a file where a folder is to be; choose another name, or move it away") from error
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise FolderInUseError(f"{folder} is in use by another process; wait for it or choose another name") from error
    try:
        yield
    finally:
        lock.release()
