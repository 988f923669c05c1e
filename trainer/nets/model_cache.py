"""Base models that were put together, in the user's cache, each once; those of files that have changed are removed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.contract.errors import CnlabError
from pipeline.contract.files import atomic, read_json, remove, user_cache, write_json
from pipeline.contract.identity import fingerprint


def cache_entry(identity: Mapping[str, str]) -> Path:
    """Folder of the model of this identity."""
    return user_cache() / "models" / fingerprint(dict(identity))[:16]


@contextmanager
def sole_maker(folder: Path, name: str, options: Mapping[str, str]) -> Iterator[Path | None]:
    """A folder to fill, which becomes ``folder``; None when that is there. One process at a time.

    ``name`` and ``options``: what the user asked for; they are recorded beside the folder for `prune`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(_beside(folder, "lock")):
        if folder.is_dir():
            yield None
        else:
            with atomic(folder) as part:
                part.mkdir()
                yield part
        own = {"name": _absolute(name), "options": {key: _absolute(value) for key, value in options.items()}}
        write_json(_beside(folder, "json"), own)
    prune(folder, own)


def prune(folder: Path, own: Mapping[str, Any]) -> None:
    """Remove the other entries beside ``folder`` that nobody can ask for again.

    Those are earlier states of what was asked for here, and those of files and folders that are gone. An entry of an
    earlier version, which recorded nothing, goes too: it is made again when it is needed.
    """
    for other in folder.parent.iterdir():
        if other == folder or not other.is_dir() or other.name.startswith("."):
            continue
        try:
            record = read_json(_beside(other, "json"))
            gone = Path(record["name"]).is_absolute() and not Path(record["name"]).exists()
        except (CnlabError, KeyError, TypeError):
            record, gone = None, True
        if gone or record == own:
            with _unused(other) as free:
                if free:
                    remove(other)
                    remove(_beside(other, "json"))


@contextmanager
def _unused(folder: Path) -> Iterator[bool]:
    """Whether no other process is making ``folder``, which is locked if so."""
    lock = FileLock(_beside(folder, "lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _absolute(name: str) -> str:
    """A file or folder wherever it is named from; a hub name, a variant or a revision as it is."""
    return str(Path(name).resolve()) if name and Path(name).exists() else name


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(f"{folder.name}.{suffix}")
