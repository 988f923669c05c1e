"""A directory of images with captions from a sidecar, a metadata file, or the file name, and maps beside them."""

from __future__ import annotations

import itertools
import os
import posixpath
import re
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.contract.errors import CnlabError
from pipeline.contract.identity import fingerprint
from pipeline.sources.base import Raw, Rejected
from pipeline.sources.caption_lists import captions_beside, is_caption_list, names_pictures, read_object
from pipeline.sources.columns import (
    FILE_NAMES,
    GENERIC,
    MAP_ENDINGS,
    MAP_FOLDERS,
    MAP_NAMES,
    ReadConfig,
    caption_columns,
    caption_in,
    map_columns,
)
from pipeline.sources.decode import MAX_BYTES, decode
from pipeline.sources.files import (
    MAX_TEXT,
    SUFFIXES,
    UNSUPPORTED,
    facts_in,
    fitted_map,
    is_image,
    printable_key,
    read_text,
    stem,
)
from pipeline.sources.hashes import content_hashes
from pipeline.sources.metadata import Names, file_column, is_table, match_metadata

SIDECARS = (".txt", ".caption")
MAPS = "maps"  # sub-folder of maps by condition: maps/depth/a/b.png belongs to a/b.jpg
ENDING = re.compile(rf"(.+)[_.-]({'|'.join(MAP_ENDINGS)})", re.IGNORECASE)
ALIKE = 0.8  # share of a folder's names that another one has, from which on it may hold maps


class Folder:
    """Every image below ``where``; the key is the path relative to it.

    Folders that are links are not entered and files that are links are read only when they stay inside, unless
    ``read.follow_links``. ``selected`` limits the maps that are loaded. ``notes`` says what was taken for what.
    """

    def __init__(
        self, where: str, image_size: int, selected: tuple[str, ...] | None = None, read: ReadConfig | None = None
    ) -> None:
        self.root, self.image_size, self.selected = Path(where).expanduser(), image_size, selected
        self.read = read or ReadConfig()
        if not where or not self.root.is_dir():
            raise CnlabError(f"source folder {where!r} is not a directory; give SOURCE=folder:PATH")
        linked: list[str] = []  # folders that are not entered
        self._listed = sorted(_walk(self.root, "", self.read.follow_links, (os.path.realpath(self.root),), linked))
        pictures = [f for f in self._listed if is_image(f)]
        tables = self._tables(pictures)
        matched = match_metadata(self.root, tables, Names(self.root, pictures), len(pictures), self.read)
        self._rows = matched.rows
        folders = self._map_folders(pictures)
        self._maps = {
            **_maps_beside(pictures), **_folder_maps(pictures, folders), **self._column_maps(pictures)
        }  # condition -> picture -> map  # fmt: skip
        taken = {file for files in self._maps.values() for file in files.values()}
        # of a folder of maps those that belong to no picture are no pictures either
        inside = (f"{MAPS}/", *{below for below in folders if any(file.startswith(below) for file in taken)})
        self._files = {printable_key(f): f for f in pictures if f not in taken and not f.startswith(inside)}
        if not self._files:
            raise CnlabError(f"no images ({', '.join(SUFFIXES)}) below {self.root}{_without(self._listed)}")
        self._sidecars = self._beside(*SIDECARS)
        self._objects = self._find_objects()
        self.own_maps = tuple(sorted(self._maps))
        self.notes = (*matched.notes, *self._account(pictures, tables, taken, inside), *self._doubts())
        if linked:
            self.notes += (f"{len(linked)} linked folders are not entered, e.g. {linked[0]}; --follow-links does",)

    # which file belongs to which picture

    def _tables(self, pictures: list[str]) -> list[str]:
        """Metadata files, and lists of captions unless they are a picture's sidecar or hold something else."""
        bare = {stem(file).casefold() for file in pictures}
        return [
            f
            for f in self._listed
            if is_table(f)
            and not (is_caption_list(f) and (stem(f).casefold() in bare or not names_pictures(self.root / f)))
        ]

    def _map_folders(self, pictures: list[str]) -> dict[str, str]:
        """``maps/NAME/``, folders that the user named, and folders of the usual names -> condition."""
        folders = {
            f"{MAPS}/{name}/": name
            for name in sorted({f.split("/")[1] for f in pictures if f.count("/") > 1 and f.startswith(f"{MAPS}/")})
        }
        folders |= {column: name for name, column in self.read.maps.items() if column.endswith("/")}
        tops = _tops(pictures)
        usual = {f"{top}/": MAP_FOLDERS[top.lower()] for top in sorted(tops) if top.lower() in MAP_FOLDERS}
        if {"source", "target"} <= tops:
            usual["source/"] = GENERIC
        known = set(folders.values())
        return folders | {below: name for below, name in usual.items() if name not in known and below not in folders}

    def _doubts(self) -> list[str]:
        """Folders of pictures with the names of another one's: perhaps maps, which only the user knows."""
        names: dict[str, set[str]] = {}
        for file in self._files.values():
            top, slash, inner = file.partition("/")
            if slash:
                names.setdefault(top, set()).add(stem(inner))
        pairs = [
            (a, b)
            for a, b in itertools.combinations(sorted(names)[:20], 2)
            if min(len(names[a]), len(names[b])) > 3
            and len(names[a] & names[b]) >= ALIKE * min(len(names[a]), len(names[b]))
        ]
        return [
            f"{a}/ and {b}/ hold pictures of the same names, and all are taken for pictures; if those of one are maps "
            f"of the other's: --map-column NAME={b}/"
            for a, b in pairs[:3]
        ] + _called_like_maps(list(self._files.values()))

    def _column_maps(self, pictures: list[str]) -> dict[str, dict[str, str]]:
        """Maps that metadata names, by condition."""
        if not self._rows:
            return {}
        columns = list(dict.fromkeys(name for row in self._rows.values() for name in row if name))
        image = file_column(self._rows.values(), self.read, str(self.root))
        named = {name: column for name, column in self.read.maps.items() if not column.endswith("/")}
        if missing := next((c for c in named.values() if c not in columns), None):
            raise CnlabError(f"{self.root}: no metadata has a column {missing!r}; there are {', '.join(columns)}")
        short = {re.sub("(_file_name|_path)$", "", c): c for c in columns if c not in (image, *FILE_NAMES)}
        maps_named = {s: c for s, c in short.items() if s != c or (s.lower() in MAP_NAMES and s.lower() != "source")}
        if image.lower() == "target" and "source" in short:
            maps_named["source"] = short["source"]
        kinds = {name: maps_named[s] for name, s in map_columns(list(maps_named), ReadConfig()).items()} | named
        maps: dict[str, dict[str, str]] = {}
        lookup = Names(self.root, [f for f in self._listed if is_image(f)])
        for name, column in kinds.items():
            for picture, row in self._rows.items():
                if value := row.get(column):
                    file = lookup.find(value, row[""])
                    maps.setdefault(name, {})[picture] = file if file is not None else str(value).replace("\\", "/")
        return maps

    def _beside(self, *suffixes: str) -> dict[str, str]:
        """Picture -> the file beside it, the first suffix first and in any case: x.txt, x.TXT, x.jpg.txt."""
        files = {
            f[: -len(suffix)].casefold(): f
            for suffix in reversed(suffixes)
            for f in self._listed
            if f.lower().endswith(suffix)
        }
        beside = {f: files.get(stem(f).casefold()) or files.get(f.casefold()) for f in self._files.values()}
        return {picture: file for picture, file in beside.items() if file}

    def _find_objects(self) -> dict[str, str]:
        """Picture -> the JSON beside it, where those that are looked at hold captions."""
        objects = {picture: file for picture, file in self._beside(".json").items() if not is_table(file)}
        self._object_caption = captions_beside(map(self._read_object, objects.values()), self.read)
        return objects if self._object_caption else {}

    def _account(self, pictures: list[str], tables: list[str], taken: set[str], inside: tuple[str, ...]) -> list[str]:
        """What became of every file that is no candidate."""
        notes = []
        images = set(self._files.values())
        for name, files in self._maps.items():
            here = sum(picture in images for picture in files)
            example = next(iter(files.values()))
            notes.append(f"maps: {here} of {len(self._files)} images have one for {name}, e.g. {example}")
        orphans = [f for f in pictures if f.startswith(inside) and f not in taken]
        if orphans:
            notes.append(f"maps: {len(orphans)} belong to no image, e.g. {orphans[0]}")
        if self._objects:
            example = next(iter(self._objects.values()))
            notes.append(
                f"captions: {len(self._objects)} of {len(self._files)} images have a JSON beside them, e.g. {example}: "
                f"{self._object_caption}"
            )
        used = {*pictures, *tables, *self._sidecars.values(), *self._objects.values()}
        texts = [f for f in self._listed if f.lower().endswith(SIDECARS) and f not in used]
        if texts:
            notes.append(f"captions: {len(texts)} files lie beside no image, e.g. {texts[0]}")
        if rest := _without([f for f in self._listed if f not in used and f not in texts]):
            notes.append(rest.strip("; "))
        return notes

    # the interface of a source

    def keys(self) -> list[str]:
        """Relative POSIX paths."""
        return list(self._files)

    def fingerprint(self) -> str:
        """Of names and contents, captions' text and maps."""
        others = {file for maps in self._maps.values() for file in maps.values()}
        texts = sorted({*self._sidecars.values(), *self._objects.values()})
        names = [*self._files.values(), *texts, *sorted(others)]
        hashes = content_hashes([self.root / name for name in names])
        return fingerprint(
            {
                "files": list(zip(map(printable_key, names), hashes, strict=True)),
                "captions": self._rows,
                "caption_column": self.read.caption_column,
                "maps": self._maps,
            }
        )

    def load(self, key: str) -> Raw:
        """One image, its captions and its maps. Raises `Rejected` with the reasons of `decode` and `fitted_map`."""
        name = self._files[key]
        image, width, height, facts = decode(self._read(name), self.image_size)
        row = self._rows.get(name) or (self._read_object(self._objects[name]) if name in self._objects else {})
        maps, params = {}, {}
        for kind in self.own_maps if self.selected is None else (k for k in self.own_maps if k in self.selected):
            if path := self._maps[kind].get(name):
                data = self._read_map(kind, path)
                maps[kind], params[kind] = fitted_map(kind, data, image, (width, height), self.read)
        return Raw(key, image, self._captions(name, row), width, height, maps, {**facts, **facts_in(row)}, params)

    def _read_object(self, file: str) -> dict[str, Any]:
        """What a JSON beside a picture says; nothing where it cannot be read."""
        try:
            return read_object(self._read(file))
        except Rejected:
            return {}

    def _read(self, name: str) -> bytes:
        """The bytes of a regular file inside the folder."""
        path = self.root / name
        try:
            inside = self.read.follow_links or path.resolve().is_relative_to(self.root.resolve())
            if path.is_symlink() and not inside:
                raise Rejected("unreadable", "a link that leaves the folder; --follow-links reads it")
            entry = path.stat()
            if not stat.S_ISREG(entry.st_mode):  # opening a pipe would wait for ever
                raise Rejected("unreadable", "not a regular file")
            if entry.st_size > MAX_BYTES:
                raise Rejected("too_large", f"{entry.st_size} bytes")
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
        """What a sidecar, the metadata and the file name say; the last not where the others are there and blank."""
        captions = {}
        if sidecar := self._sidecars.get(name):
            try:
                with (self.root / sidecar).open("rb") as file:
                    captions["sidecar"] = read_text(file.read(MAX_TEXT))
            except OSError as error:
                raise Rejected("caption_empty", f"{sidecar}: {error.strerror}") from error
        columns = (self.read.caption_column,) if self.read.caption_column else caption_columns(list(row))
        if any(column in row for column in columns):
            captions["metadata"] = caption_in(row, columns, MAX_TEXT)
        if captions and not any(captions.values()):
            return captions
        words = re.sub(r"[_\-.]+", " ", stem(posixpath.basename(name)))
        return {**captions, "filename": re.sub(r"\s+", " ", words).strip()}


def _called_like_maps(pictures: list[str]) -> list[str]:
    stems = {stem(file) for file in pictures}
    alike = [f for f in pictures if (match := ENDING.fullmatch(stem(f))) and match[1] in stems]
    return [f"{len(alike)} pictures are called like maps of others, e.g. {alike[0]}, and are taken for pictures: fewer "
            "than half of the others have one"] if alike else []  # fmt: skip


def _tops(pictures: list[str]) -> set[str]:
    return {f.partition("/")[0] for f in pictures if "/" in f}


def _folder_maps(pictures: list[str], folders: dict[str, str]) -> dict[str, dict[str, str]]:
    """Condition -> picture -> map, for each folder of maps: the file of the same name in a folder of pictures."""
    twins = {stem(file): file for file in reversed(pictures)}
    for file in sorted(pictures, key=lambda file: file.partition("/")[0]):
        top, slash, inner = file.partition("/")
        if slash and top != MAPS and f"{top}/" not in folders:
            twins.setdefault(stem(inner), file)
    maps: dict[str, dict[str, str]] = {}
    for below, name in folders.items():
        for file in (f for f in pictures if f.startswith(below)):
            if picture := twins.get(stem(file.removeprefix(below))):
                maps.setdefault(name, {})[picture] = file
    return maps


def _maps_beside(pictures: list[str]) -> dict[str, dict[str, str]]:
    """Condition -> picture -> map, for maps that lie beside their pictures: ``x.jpg`` and ``x_canny.png``.

    Where fewer than half of the pictures have one, they are pictures that happen to be called so.
    """
    by_stem = {stem(file): file for file in reversed(pictures)}
    maps: dict[str, dict[str, str]] = {}
    for file in pictures:
        if (match := ENDING.fullmatch(stem(file))) and (picture := by_stem.get(match[1])):
            maps.setdefault(MAP_ENDINGS[match[2].lower()], {})[picture] = file
    ends = sum(map(len, maps.values()))
    return {name: files for name, files in maps.items() if 2 * len(files) >= len(pictures) - ends}


def _without(files: list[str]) -> str:
    """``; not read: 3 .heic (unsupported), 1 without a suffix``; empty for none."""
    counts = Counter(posixpath.splitext(f)[1].lower() for f in files if not is_image(f))
    parts = [
        f"{n} {suffix or 'without a suffix'}{' (unsupported: convert to JPEG or PNG)' if suffix in UNSUPPORTED else ''}"
        for suffix, n in sorted(counts.items())
    ]
    return f"; not read: {', '.join(parts)}" if parts else ""


def _walk(root: Path, below: str, follow: bool, above: tuple[str, ...], linked: list[str]) -> Iterator[str]:
    """Relative paths of all files; hidden ones are left out; linked folders, unless ``follow``, go into ``linked``."""
    folders = []
    with os.scandir(root / below) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = posixpath.join(below, entry.name)
            if entry.is_dir(follow_symlinks=follow):
                folders.append(name)
            elif entry.is_symlink() and (root / name).is_dir():
                linked.append(name)
            else:
                yield name
    for name in folders:
        real = os.path.realpath(root / name)
        if real in above:  # a link to a folder that holds it
            continue
        try:
            yield from _walk(root, name, follow, (*above, real), linked)
        except PermissionError as error:
            raise CnlabError(f"{root / name} cannot be listed; allow reading it or move it away") from error
