"""A directory of ordinary images with captions from a sidecar, a metadata file, or the file name."""

from __future__ import annotations

import os
import posixpath
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.contract.errors import CnlabError
from pipeline.contract.identity import fingerprint
from pipeline.sources.base import Raw, Rejected
from pipeline.sources.decode import MAX_BYTES, decode
from pipeline.sources.files import (
    MAX_TEXT,
    SUFFIXES,
    caption_in,
    facts_in,
    fitted_map,
    is_image,
    printable_key,
    read_metadata,
    read_text,
    stem,
)

METADATA = ("metadata.jsonl", "metadata.csv")
SIDECARS = (".txt", ".caption")
MAPS = "maps"  # sub-folder of given maps: maps/depth/a/b.png belongs to a/b.jpg
MAP_COLUMN = "_file_name"  # of the metadata: depth_file_name


class Folder:
    """Every image below ``where``; the key is the path relative to it.

    Folders that are links are not entered; files that are links are read when they stay inside. ``wanted`` limits
    the given maps that are loaded.
    """

    def __init__(self, where: str, image_size: int, wanted: tuple[str, ...] | None = None) -> None:
        self.root, self.image_size, self.wanted = Path(where).expanduser(), image_size, wanted
        if not where or not self.root.is_dir():
            raise CnlabError(f"source folder {where!r} is not a directory; give SOURCE=folder:PATH")
        listed = sorted(_walk(self.root, ""))
        inside = f"{MAPS}/"
        self._maps = {stem(f.removeprefix(inside)): f for f in listed if f.startswith(inside) and is_image(f)}
        self._files = {printable_key(f): f for f in listed if is_image(f) and not f.startswith(inside)}
        self._sidecars = {f for f in listed if f.endswith(SIDECARS)}
        if not self._files:
            raise CnlabError(f"no images ({', '.join(SUFFIXES)}) below {self.root}")
        self._rows = self._metadata()
        columns = {name.removesuffix(MAP_COLUMN) for row in self._rows.values() for name in row if MAP_COLUMN in name}
        self.given = tuple(
            sorted({name.partition("/")[0] for name in self._maps if "/" in name} | columns - {"file_name"})
        )

    def _metadata(self) -> dict[str, dict[str, Any]]:
        for name in METADATA:
            path = self.root / name
            if path.is_file():
                return read_metadata(str(path), path.read_text(encoding="utf-8-sig", errors="replace"))
        return {}

    def keys(self) -> list[str]:
        """Relative POSIX paths."""
        return list(self._files)

    def fingerprint(self) -> str:
        """Of names, sizes, modification times and captions' text."""
        found = []
        for name in (*self._files.values(), *sorted(self._sidecars), *self._maps.values()):
            try:
                s = (self.root / name).stat()
                found.append((printable_key(name), s.st_size, s.st_mtime_ns))
            except OSError:  # a dangling link
                found.append((printable_key(name), -1, 0))
        return fingerprint({"files": found, "captions": self._rows})

    def load(self, key: str) -> Raw:
        """One image, its captions and its maps. Raises `Rejected` with the reasons of `decode` and `fitted_map`."""
        name = self._files[key]
        image, width, height, facts = decode(self._read(name), self.image_size)
        row = self._rows.get(name, {})
        maps = {}
        for kind in self.given if self.wanted is None else (k for k in self.given if k in self.wanted):
            path = row.get(f"{kind}{MAP_COLUMN}") or self._maps.get(f"{kind}/{stem(name)}")
            if path:
                maps[kind] = fitted_map(kind, self._read_map(kind, path), image, (width, height))
        return Raw(key, image, self._captions(name, row), width, height, maps, {**facts, **facts_in(row)})

    def _read(self, name: str) -> bytes:
        """The bytes of a regular file inside the folder."""
        path = self.root / name
        try:
            if path.is_symlink() and not path.resolve().is_relative_to(self.root.resolve()):
                raise Rejected("unreadable", "a link that leaves the folder")
            found = path.stat()
            if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for ever
                raise Rejected("unreadable", "not a regular file")
            if found.st_size > MAX_BYTES:
                raise Rejected("too_large", f"{found.st_size} bytes")
            return path.read_bytes()
        except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
            raise Rejected("unreadable", str(getattr(error, "strerror", "") or error)) from error

    def _read_map(self, kind: str, path: str) -> bytes:
        inside = posixpath.normpath(path)
        if inside.startswith(("../", "/")):
            raise Rejected("map_missing", f"{kind}: {path} leaves the folder")
        try:
            return self._read(inside)
        except Rejected as error:
            raise Rejected("map_missing", f"{kind}: {error.detail}") from error

    def _captions(self, name: str, row: dict[str, Any]) -> dict[str, str]:
        found = {}
        for suffix in SIDECARS:
            sidecar = stem(name) + suffix
            if "sidecar" not in found and sidecar in self._sidecars and (self.root / sidecar).is_file():
                with (self.root / sidecar).open("rb") as file:
                    found["sidecar"] = read_text(file.read(MAX_TEXT))
        if said := caption_in(row):
            found["metadata"] = said
        words = re.sub(r"[_\-.]+", " ", stem(posixpath.basename(name)))
        return {**found, "filename": re.sub(r"\s+", " ", words).strip()}


def _walk(root: Path, below: str) -> Iterator[str]:
    """Relative paths of all files; hidden ones and linked folders are left out."""
    folders = []
    with os.scandir(root / below) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = posixpath.join(below, entry.name)
            if entry.is_dir(follow_symlinks=False):
                folders.append(name)
            elif not (entry.is_symlink() and (root / name).is_dir()):
                yield name
    for name in folders:
        try:
            yield from _walk(root, name)
        except PermissionError as error:
            raise CnlabError(f"{root / name} cannot be listed; allow reading it or move it away") from error
