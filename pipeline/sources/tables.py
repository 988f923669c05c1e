"""Tables with an image column: Parquet files, and datasets of the hub, both through `datasets`.

Rank order visits rows at random, which a Parquet file cannot serve: `datasets` therefore writes the table once to its
cache of memory-mapped Arrow files (as large as the table), which all workers share.
"""

from __future__ import annotations

import dataclasses
import glob
from collections import Counter
from pathlib import Path
from typing import Any

import fsspec

from pipeline.contract.errors import CnlabError, first_line
from pipeline.contract.hub import require_hub
from pipeline.contract.identity import fingerprint
from pipeline.contract.sizes import parse_size
from pipeline.sources.base import Raw, Rejected
from pipeline.sources.columns import (
    GENERIC,
    IMAGE_NAMES,
    MAP_NAMES,
    ReadConfig,
    caption_in,
    recognise,
)
from pipeline.sources.decode import MAX_BYTES, decode
from pipeline.sources.files import FACTS, MAX_TEXT, facts_in, fitted_map, matching_files
from pipeline.sources.hashes import content_hashes

KEY_COLUMNS = ("key", "__key__", "image_id", "id")


class Table:
    """Rows of a `datasets.Dataset`.

    keys   the column ``key``, ``__key__``, ``image_id`` or ``id`` if there is one, else ``row-N`` (so that rows should
           then only be appended)
    maps   every further image column by its name, one of an unsaid kind as ``conditioning_image``
    """

    def __init__(
        self, rows: Any, identity: str, image_size: int, selected: tuple[str, ...] | None, read: ReadConfig, where: str
    ) -> None:
        from datasets import Image

        pictures = [name for name, kind in rows.features.items() if _is_picture(name, kind, read)]
        self._columns = recognise(list(rows.features), pictures, read, where)
        if _ours(rows.features):
            self._columns.maps.pop(GENERIC, None)  # it repeats the map of the first condition
        for name in pictures:
            if isinstance(rows.features[name], Image):
                rows = rows.cast_column(name, Image(decode=False))
        self.own_maps = tuple(self._columns.maps)
        self._rows, self._identity = rows, identity
        self.image_size, self.selected, self.read = image_size, selected, read
        self._keys = {key: i for i, key in enumerate(_keys(rows))}
        unread = {
            column for name, column in self._columns.maps.items() if selected is not None and name not in selected
        }
        self._view = rows.select_columns([n for n in rows.features if n not in unread])
        parts = [
            f"the column {self._columns.image} is the picture",
            f"{' or '.join(self._columns.caption) or 'none'} the caption",
        ]
        parts += [f"{column} the map {name}" for name, column in self._columns.maps.items()]
        self.notes: tuple[str, ...] = (", ".join(parts),)
        used = {self._columns.image, *self._columns.caption, *self._columns.maps.values(), *KEY_COLUMNS, *FACTS}
        if (unused := [name for name in rows.features if name not in used]) and not _ours(rows.features):
            self.notes += (f"not read: the columns {', '.join(unused)}",)

    def keys(self) -> list[str]:
        """See the class."""
        return list(self._keys)

    def fingerprint(self) -> str:
        """Of the files behind the table."""
        return fingerprint({"rows": self._identity, "columns": dataclasses.asdict(self._columns)})

    def load(self, key: str) -> Raw:
        """Read one row. Raises `Rejected` with the reasons of `decode` and `fitted_map`."""
        row = self._view[self._keys[key]]
        image, width, height, facts = decode(_bytes(row[self._columns.image]), self.image_size)
        maps, params = {}, {}
        for name, column in self._columns.maps.items():
            if row.get(column) is not None:
                maps[name], params[name] = fitted_map(name, _bytes(row[column]), image, (width, height), self.read)
        text = caption_in(row, self._columns.caption, MAX_TEXT)
        captions = {"column": text} if text else {}
        return Raw(key, image, captions, width, height, maps, {**facts, **facts_in(row)}, params)


def _is_picture(name: str, kind: Any, read: ReadConfig) -> bool:
    from datasets import Image, Value

    if isinstance(kind, Image):
        return True
    if isinstance(kind, dict):
        return "bytes" in kind
    known = name.lower() in (*IMAGE_NAMES, *MAP_NAMES) or name in (read.image_column, *read.maps.values())
    return isinstance(kind, Value) and "binary" in kind.dtype and known


def _ours(columns: Any) -> bool:
    """Whether the table is a dataset of this project: ``conditioning_image`` then repeats a condition's own column."""
    return "key" in columns and any(f"{name}_params" in columns for name in columns)


def _keys(rows: Any) -> list[str]:
    column = next((n for n in KEY_COLUMNS if n in rows.column_names), None)
    if column is None:
        return [f"row-{i:09d}" for i in range(len(rows))]
    named = [str(value) for value in rows[column]]
    often = Counter(named)
    return [key if often[key] == 1 else f"{key}#{i}" for i, key in enumerate(named)]


def _bytes(cell: Any) -> bytes:
    """The bytes of an image cell. A path is only followed inside the cache of `datasets`: tables come from anywhere."""
    from datasets import config

    if isinstance(cell, dict):
        path = cell.get("path")
        data = cell.get("bytes")
        if data is None and path:
            try:
                inside = Path(path).resolve().is_relative_to(Path(config.HF_CACHE_HOME).resolve())
                if inside and Path(path).stat().st_size <= MAX_BYTES:
                    return Path(path).read_bytes()
            except OSError as error:
                raise Rejected("unreadable", str(error.strerror)) from error
            raise Rejected("unreadable", "the row names a file and holds no bytes")
        cell = data
    if not isinstance(cell, bytes):
        raise Rejected("unreadable", "the row holds no image")
    return cell


def open_parquet(
    where: str, image_size: int, selected: tuple[str, ...] | None = None, read: ReadConfig | None = None
) -> Table:
    """Parquet files at ``where``: a file, a glob, or a folder (of a finished dataset: its train and eval shards)."""
    from datasets import load_dataset

    folder = Path(where).expanduser()
    if where and folder.is_dir():
        ours = (folder / "dataset.json").is_file()
        paths = sorted(
            p for part in (("train-*", "eval-*") if ours else ("**/*",)) for p in folder.glob(f"{part}.parquet")
        )
    else:
        paths = sorted(p for p in map(Path, matching_files(fsspec.filesystem("file"), str(folder))) if p.is_file())
    if not where or not paths:
        raise CnlabError(f"no Parquet files at {where!r}; give SOURCE=parquet:PATH, a file, a folder or a glob")
    files = list(zip((path.name for path in paths), content_hashes(paths), strict=True))
    try:
        rows = load_dataset("parquet", data_files=[glob.escape(str(p)) for p in paths], split="train")
    except Exception as error:  # damaged files raise nearly anything
        raise _unreadable(where, error) from error
    return Table(rows, fingerprint(files), image_size, selected, read or ReadConfig(), where)


def open_hub(
    where: str, image_size: int, selected: tuple[str, ...] | None = None, read: ReadConfig | None = None
) -> Table:
    """``NAME[:SPLIT[:ROWS]]`` of the hub, or a local folder that `datasets.load_dataset` reads; SPLIT is train.

    With ROWS (e.g. 50k) the split is streamed and only that many rows from its head are fetched and kept.
    """
    from datasets import Dataset, Image, load_dataset

    name, _, rest = where.partition(":")
    split, _, rows = rest.partition(":")
    if not name:
        raise CnlabError("give a dataset of the hub: SOURCE=hub:NAME, hub:NAME:SPLIT or hub:NAME:SPLIT:ROWS")
    count = parse_size(rows) if rows else 0
    require_hub(name, "dataset", "give files with parquet:PATH or folder:PATH")
    if Path(name).is_dir() and glob.has_magic(name):
        raise CnlabError(f"hub:{name}: datasets takes brackets and stars for patterns; use parquet:PATH or folder:PATH")
    try:
        if not count:
            table = load_dataset(name, split=split or "train")
            return Table(table, _version(where, name, table), image_size, selected, read or ReadConfig(), where)
        stream = load_dataset(name, split=split or "train", streaming=True)
        features = stream.features or stream._resolve_features().features
        for column, kind in features.items():
            if isinstance(kind, Image):
                stream = stream.cast_column(column, Image(decode=False))
        kept = {"name": name, "split": split or "train", "count": count}
        table = Dataset.from_generator(_Head(stream, kept), features=features)
    except CnlabError:
        raise
    except Exception as error:  # the hub, its files and the network raise nearly anything
        raise _unreadable(where, error) from error
    return Table(table, _version(where, name, table), image_size, selected, read or ReadConfig(), where)


def _version(where: str, name: str, table: Any) -> str:
    """Fingerprint of a dataset of the hub; of a local folder, of its files' contents."""
    folder = Path(name)
    if not folder.is_dir():
        return fingerprint([where, table._fingerprint])
    paths = sorted(path for path in folder.rglob("*") if not path.name.startswith("."))
    names = [path.relative_to(folder).as_posix() for path in paths]
    return fingerprint([where.removeprefix(name), list(zip(names, content_hashes(paths), strict=True))])


class _Head:
    """The first rows of a stream, as a generator function that `datasets` can name its cache by."""

    def __init__(self, stream: Any, kept: dict[str, Any]) -> None:
        self.stream, self.kept = stream, kept

    def __reduce__(self) -> tuple[type, tuple[None, dict[str, Any]]]:
        """Hashed by what was asked for, not by the stream's inner state."""
        return _Head, (None, self.kept)

    def __call__(self) -> Any:
        """Yield rows."""
        yield from self.stream.take(self.kept["count"])


def _unreadable(where: str, error: Exception) -> CnlabError:
    why = f"{type(error).__name__}: {first_line(error)[:200]}"
    return CnlabError(f"{where} cannot be read ({why}); check its name and files")
