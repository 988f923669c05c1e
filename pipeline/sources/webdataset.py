"""Tar archives as img2dataset and webdataset write them: KEY.jpg, KEY.txt, KEY.json; local or through fsspec.

Nothing is ever extracted to disk: one pass over the headers makes an index, members are then read at their offset.
Members whose names would leave a folder, and those that are no plain files, are rejected by name all the same, because
whoever wrote them is not to be trusted.
"""

from __future__ import annotations

import json
import posixpath
import re
import tarfile
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.contract.errors import CnlabError
from pipeline.contract.identity import fingerprint
from pipeline.sources.base import Raw, Rejected
from pipeline.sources.columns import ReadConfig, caption_columns, caption_in, map_columns
from pipeline.sources.decode import MAX_BYTES, decode
from pipeline.sources.files import (
    MAX_TEXT,
    facts_in,
    fitted_map,
    is_image,
    matching_files,
    printable_key,
    read_text,
    stem,
)
from pipeline.sources.hashes import content_hashes

MAX_MEMBERS = 2_000_000  # of one tar; img2dataset writes 30,000
OPEN_FILES = 32  # handles kept; rank order visits all tars in turn
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass
class Sample:
    """Where a sample's members lie: (offset, bytes) of each part, and why it cannot be used, if so."""

    tar: str
    image: tuple[int, int] | None = None
    texts: dict[str, tuple[int, int]] = field(default_factory=dict)  # txt, caption, json
    maps: dict[str, tuple[int, int]] = field(default_factory=dict)
    fault: tuple[str, str] | None = None


class WebDataset:
    """Tars at ``where``: a folder, a glob, a path with {00000..00041}, or a URL of fsspec (s3://, simplecache:: ...).

    The key is TAR/MEMBER without suffixes. ``KEY.depth.png`` beside ``KEY.jpg`` is a given map called depth.
    """

    def __init__(
        self, where: str, image_size: int, selected: tuple[str, ...] | None = None, read: ReadConfig | None = None
    ) -> None:
        self.image_size, self.selected, self.read = image_size, selected, read or ReadConfig()
        self._fs, self._tars = _find(where)
        self._open: OrderedDict[str, Any] = OrderedDict()
        self._samples: dict[str, Sample] = {}
        self._unread: Counter[str] = Counter()
        for name, path in self._tars.items():
            self._index(name, path)
        usable = [s for s in self._samples.values() if s.image and not s.fault]
        if not usable:
            faults = ", ".join(sorted({s.fault[0] for s in self._samples.values() if s.fault})) or "no images in them"
            raise CnlabError(f"{where}: no usable sample in {len(self._tars)} tar files ({faults})")
        self._kinds = map_columns(sorted({name for s in usable for name in s.maps}), self.read)
        self.own_maps = tuple(sorted(self._kinds))
        self.notes = tuple(self._account(len(usable)))

    def _account(self, usable: int) -> list[str]:
        """What the members were taken for."""
        notes = [f"{usable} samples with an image in {len(self._tars)} tar files"]
        for name, kind in self._kinds.items():
            count = sum(kind in s.maps for s in self._samples.values())
            notes.append(f"maps: {count} of them have KEY.{kind}.*, taken as {name}")
        if self._unread:
            notes.append("not read: " + ", ".join(f"{n} .{suffix}" for suffix, n in sorted(self._unread.items())))
        return notes

    def keys(self) -> list[str]:
        """``TAR/MEMBER``, those of unusable members too."""
        return list(self._samples)

    def fingerprint(self) -> str:
        """Of the tars' names and contents; of remote ones, of their names, sizes and etags or times."""
        if isinstance(self._fs, LocalFileSystem):
            hashes = content_hashes([Path(path) for path in self._tars.values()])
            return fingerprint(list(zip(self._tars, hashes, strict=True)))
        versions = []
        for name, path in self._tars.items():
            info = self._fs.info(path)
            fields = (info.get(field) for field in ("ETag", "etag", "mtime", "LastModified", "created"))
            versions.append((name, info.get("size"), str(next(filter(None, fields), None))))
        return fingerprint(versions)

    def load(self, key: str) -> Raw:
        """Read one sample. Raises `Rejected` with the reasons of `decode`, unsafe_member, duplicate_name, truncated."""
        sample = self._samples[key]
        if sample.fault:
            raise Rejected(*sample.fault)
        assert sample.image is not None  # without one there is a fault
        image, width, height, facts = decode(self._read(sample.tar, sample.image), self.image_size)
        captions, row = self._captions(sample)
        maps, params = {}, {}
        for name, kind in self._kinds.items():
            if kind in sample.maps and (self.selected is None or name in self.selected):
                data = self._read(sample.tar, sample.maps[kind])
                maps[name], params[name] = fitted_map(name, data, image, (width, height), self.read)
        return Raw(key, image, captions, width, height, maps, {**facts, **facts_in(row)}, params)

    def _captions(self, sample: Sample) -> tuple[dict[str, str], dict[str, Any]]:
        captions: dict[str, str] = {}
        row: dict[str, Any] = {}
        for kind, (offset, size) in sample.texts.items():
            text = read_text(self._read(sample.tar, (offset, min(size, MAX_TEXT))))
            if kind != "json":
                captions.setdefault("sidecar", text)
                continue
            try:
                read = json.loads(text)
            except (ValueError, RecursionError):  # img2dataset's failures leave such; the caption may be elsewhere
                continue
            row = read if isinstance(read, dict) else {}
        columns = (self.read.caption_column,) if self.read.caption_column else caption_columns(list(row))
        if text := caption_in(row, columns, MAX_TEXT):
            captions["metadata"] = text
        return captions, row

    def _read(self, tar: str, where: tuple[int, int]) -> bytes:
        offset, size = where
        if size > MAX_BYTES:
            raise Rejected("too_large", f"{size} bytes")
        try:
            handle = self._handle(tar)
            handle.seek(offset)
            data: bytes = handle.read(size)
        except (OSError, ValueError) as error:
            self._open.pop(tar, None)
            raise Rejected("unreadable", f"{tar}: {error}"[:200]) from error
        if len(data) < size:
            raise Rejected("truncated", f"{tar} ends {size - len(data)} bytes too early")
        return data

    def _handle(self, tar: str) -> Any:
        if tar not in self._open:
            self._open[tar] = self._fs.open(self._tars[tar], "rb")
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(tar)
        return self._open[tar]

    def _index(self, tar: str, path: str) -> None:
        """Enter the members of one tar."""
        members: list[tarfile.TarInfo] = []
        try:
            with self._fs.open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
                for count, member in enumerate(_members(archive)):
                    if count >= MAX_MEMBERS:
                        raise CnlabError(f"{tar} has more than {MAX_MEMBERS} members; split it")
                    if not member.isdir() and not posixpath.basename(member.name).startswith("."):
                        members.append(member)  # hidden files: the resource forks of macOS
                file.seek(archive.offset)
                if file.read(512) != bytes(512):  # tarfile takes a damaged header for the end
                    raise tarfile.ReadError(f"no end mark at byte {archive.offset}, where the members end")
        except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
            # the members so far are good; that others are lost must not go unseen
            self._samples[f"{tar}/?"] = Sample(tar, fault=("truncated", f"{tar}: {error}"[:200]))
        images = {stem(member.name) for member in members if is_image(member.name)}
        for member in members:
            self._enter(tar, member, images)

    def _enter(self, tar: str, member: tarfile.TarInfo, images: set[str]) -> None:
        folder, base = posixpath.split(member.name)
        root, kind = _root(folder, base, images)
        key = printable_key(posixpath.join(tar, folder, root))
        if not (is_image(base) or kind in ("txt", "caption", "json")):
            self._unread[kind] += 1
            return
        sample = self._samples.setdefault(key, Sample(tar, fault=("no_image", f"{tar}: {key} has a text alone")))
        place = (member.offset_data, member.size)
        if folder.startswith("/") or ".." in member.name.split("/") or "\\" in member.name:
            sample.fault = ("unsafe_member", member.name[:200])
        elif not member.isreg() or member.issparse():
            sample.fault = ("unsafe_member", f"{member.name[:150]} is no plain file (type {member.type!r})")
        elif (sample.image if is_image(base) and not kind else {**sample.texts, **sample.maps}.get(kind)) is not None:
            sample.fault = ("duplicate_name", member.name[:200])
        elif not is_image(base):
            sample.texts[kind] = place
        elif kind:
            sample.maps[kind] = place
        else:
            sample.image = place
            sample.fault = sample.fault if sample.fault and sample.fault[0] != "no_image" else None


def _root(folder: str, base: str, images: set[str]) -> tuple[str, str]:
    """(sample's name, part) of a member: ``a.v2.jpg`` is (a.v2, ""), ``a.v2.depth.png`` beside it (a.v2, depth).

    The part of an image is "", that of a map its condition, that of any other member its suffix. Names may hold dots:
    an image is a map where another image is named by what comes before its last dot.
    ``images``: names of the tar's images without their suffix.
    """
    bare, _, suffix = base.rpartition(".")
    if not is_image(base):
        text = bare if bare else base
        return (stem(text) if is_image(text) else text), suffix.lower()
    before, _, word = bare.rpartition(".")
    return (before, word.lower()) if before and posixpath.join(folder, before) in images else (bare, "")


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := archive.next()) is not None:
        yield member
        archive.members = []  # type: ignore[attr-defined] # tarfile keeps every header otherwise: 2 kB each


def _find(where: str) -> tuple[Any, dict[str, str]]:
    """The filesystem, and name -> path of each tar, in order of name."""
    if not where:
        raise CnlabError("give tars to read: SOURCE=webdataset:PATH, a folder, a glob, or {00000..00041}")
    try:
        fs, path = fsspec.core.url_to_fs(where)
        if fs.isdir(path):  # whatever brackets its name holds
            paths = sorted(hit for hit in fs.ls(path, detail=False) if hit.endswith(".tar"))
        else:
            paths = sorted({hit for p in _expand(path) for hit in matching_files(fs, p)})
        missing = next((p for p in paths if not fs.isfile(p)), None)
    except (OSError, ValueError, ImportError) as error:
        raise CnlabError(
            f"webdataset:{where} cannot be opened ({error}); check the path, or install its fsspec backend"
        ) from error
    if missing or not paths:
        raise CnlabError(f"webdataset:{where}: {missing or 'no tar file'} is not there")
    packed = next((p for p in paths if p.endswith((".gz", ".tgz", ".bz2", ".xz", ".zst"))), None)
    if packed:
        raise CnlabError(f"{packed} is compressed, which allows no random access; unpack it to a plain .tar")
    names = [stem(posixpath.basename(p)) or p for p in paths]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice:
        raise CnlabError(f"webdataset:{where}: two tars are called {twice}; keys would clash, so rename one")
    return fs, dict(zip(names, paths, strict=True))


def _expand(path: str) -> list[str]:
    """``a{08..10}`` -> a08, a09, a10; several pairs of braces multiply."""
    braces = BRACES.search(path)
    if not braces:
        return [path]
    first, last = braces.groups()
    numbers = range(int(first), int(last) + 1)
    if len(numbers) > 100_000:
        raise CnlabError(f"{path} stands for {len(numbers)} files")
    return [p for n in numbers for p in _expand(path.replace(braces[0], str(n).zfill(len(first)), 1))]
