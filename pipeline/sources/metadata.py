"""Metadata of a folder: which caption and which maps belong to which file, in the forms that people have."""

from __future__ import annotations

import csv
import io
import json
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.contract.errors import CnlabError, first_line
from pipeline.sources.caption_lists import is_caption_list, rows_of_lines, rows_of_object
from pipeline.sources.columns import FILE_NAMES, IMAGE_NAMES, ReadConfig, pick

STEMS = ("metadata", "prompt", "prompts", "captions", "meta_cap", "meta_clean")
FORMS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
SEPARATORS = ",;\t|"


def is_table(name: str) -> bool:
    """``metadata.jsonl``, ``prompt.json``, ``captions.csv``, a list of `is_caption_list` ... in any folder and case."""
    base, suffix = posixpath.splitext(posixpath.basename(name).lower())
    return (base in STEMS and suffix in FORMS) or is_caption_list(name)


@dataclass
class Matched:
    """Rows by the file they belong to, and what to tell people about the rest."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_rows(path: Path, read: ReadConfig) -> list[dict[str, Any]]:
    """Rows of one metadata file. Raises CnlabError that names the line at fault.

    JSON lines; a JSON list of objects; a JSON object of file name -> caption or object (kohya's meta_cap.json), or one
    of `rows_of_object`; CSV with comma, semicolon, tab or bar; `rows_of_lines`; Parquet. UTF-8 with or without a mark,
    or UTF-16 with one.
    """
    try:
        if path.suffix.lower() == ".parquet":
            import pyarrow.parquet as pq

            return [dict(row) for row in pq.read_table(path).to_pylist()]
        data = path.read_bytes()
        wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        text = data.decode("utf-16" if wide else "utf-8-sig")
        if path.suffix.lower() in (".jsonl", ".json"):
            return _json_rows(path, text)
        return rows_of_lines(text) or _csv_rows(path, text)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CnlabError(
            f"{path}, line {line}: {data[max(0, error.start - 10) : error.start + 10]!r} is not UTF-8; save the file "
            "as UTF-8 (in Excel: CSV UTF-8)"
        ) from error
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CnlabError(
            f"{path} cannot be read as {path.suffix[1:]} ({first_line(error)}); mend or remove it"
        ) from error


def _json_rows(path: Path, text: str) -> list[dict[str, Any]]:
    try:
        whole = json.loads(text)
    except ValueError:
        whole = [_json_line(path, n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    if isinstance(whole, dict) and (listed := rows_of_object(path, whole)) is not None:
        return listed
    if isinstance(whole, dict) and pick(list(whole), (*FILE_NAMES, *IMAGE_NAMES)):
        whole = [whole]  # a file of one line
    if isinstance(whole, dict):
        whole = [{"file_name": k, **(v if isinstance(v, dict) else {"text": v})} for k, v in whole.items()]
    if not isinstance(whole, list) or not all(isinstance(row, dict) for row in whole):
        raise CnlabError(f"{path}: neither JSON lines, nor a list of objects, nor an object by file name")
    return whole


def _json_line(path: Path, number: int, line: str) -> Any:
    # only line feeds part lines: JSON strings may hold U+2028 and its kind
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CnlabError(f"{path}, line {number}: no JSON ({first_line(error)}); mend that line") from error


def _csv_rows(path: Path, text: str) -> list[dict[str, Any]]:
    head = text.lstrip("\ufeff").partition("\n")[0]
    separator = "\t" if path.suffix.lower() == ".tsv" else max(SEPARATORS, key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    listed = is_caption_list(path.name)  # captions stand last and unquoted, and a line of Flickr30k lacks a bar
    try:
        names = [name.strip() for name in next(reader, [])]
        last, rows = len(names) - 1, []
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if listed:
                cells = [*cells[:last], *[""] * (last - len(cells)), separator.join(cells[last:])]
            elif len(cells) != len(names):
                raise CnlabError(
                    f"{path}, line {reader.line_num}: {len(cells)} fields where the header has {len(names)} "
                    f"({separator.join(cells)[:80]!r}); "
                    + (
                        f"put a text that holds {separator!r} in double quotes"
                        if len(cells) > len(names)
                        else "add the missing ones, or take the line out"
                    )
                )
            rows.append(dict(zip(names, (cell.strip() for cell in cells), strict=True)))
    except csv.Error as error:
        raise CnlabError(f"{path}, line {reader.line_num}: {error}; mend that line") from error
    return rows


def file_column(rows: Iterable[Mapping[str, Any]], read: ReadConfig, where: str) -> str:
    """The column that names each row's picture: the user's, or a known one. Raises CnlabError listing the columns."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    if read.image_column and read.image_column in names:
        return read.image_column
    column = pick(
        names, (*FILE_NAMES, *(n for n in IMAGE_NAMES if n != "bytes"), "image_file_name", "target_file_name")
    )
    if not column:
        raise CnlabError(
            f"{where}: which column names the picture? There are {', '.join(names) or 'none'}; "
            "call it file_name or name it with --image-column"
        )
    return column


class Names:
    """Finds files by names as people write them: exactly, else as they differ in form, case or a missing suffix."""

    def __init__(self, root: Path, files: Iterable[str]) -> None:
        self.root = root
        self._exact = {_form(name): name for name in files}
        self._case = _unique((name.casefold(), file) for name, file in self._exact.items())
        self._bare = _unique((posixpath.splitext(name)[0].casefold(), file) for name, file in self._exact.items())
        self._base = _unique((posixpath.basename(name).casefold(), file) for name, file in self._exact.items())

    def find(self, name: Any, below: str) -> str | None:
        """The file that ``name`` means in metadata of the folder ``below`` (relative to the root); None for none."""
        if not isinstance(name, str) or not name.strip():
            return None
        plain = name.strip().replace("\\", "/")
        if plain.startswith("/"):
            root = self.root.resolve().as_posix() + "/"
            candidates = [plain.removeprefix(root)] if plain.startswith(root) else []
        else:
            candidates = [posixpath.normpath(posixpath.join(below, plain)), posixpath.normpath(plain)]
        for form in map(_form, candidates):
            for table, key in ((self._exact, form), (self._case, form.casefold()), (self._bare, form.casefold())):
                if key in table:
                    return table[key]
        return None

    def find_anywhere(self, name: Any) -> str | None:
        """The one file of that name, whatever folder it lies in."""
        return self._base.get(_form(posixpath.basename(name)).casefold()) if isinstance(name, str) else None


def _form(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _unique(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    listed = list(pairs)
    often = Counter(key for key, _ in listed)
    return {key: file for key, file in listed if often[key] == 1}


def match_metadata(root: Path, tables: Iterable[str], names: Names, images: int, read: ReadConfig) -> Matched:
    """Rows of all metadata files below ``root`` by the file they belong to; a later file never unseats an earlier one.

    Raises CnlabError when a file names no picture at all that is there; of the lists of public sets, which come for
    every split, when none does.
    """
    out, refusals = Matched(), []
    for table in tables:
        rows, below, listed = read_rows(root / table, read), posixpath.dirname(table), is_caption_list(table)
        if not rows:
            out.notes.append(f"{table} has no rows")
            continue
        column = file_column(rows, read, str(root / table))
        named = [(names.find(row.get(column), below), row) for row in rows]
        if listed and not any(file for file, _ in named):
            named = [(names.find_anywhere(row.get(column)), row) for row in rows]
        hits = _take(out, named, below)
        lost = [str(row.get(column)) for file, row in named if file is None]
        if len(lost) == len(rows):
            nothing = f"{table}: 0 of {images} images matched, e.g. {lost[0]!r}"
            if not listed:
                raise CnlabError(
                    f"{root}/{nothing}; its column {column!r} must hold paths relative to it (name another with "
                    "--image-column, or move the file away)"
                )
            refusals.append(nothing)
            out.notes.append(nothing)
            continue
        note = f"{table}: {hits} of {images} images matched"
        note += f"; {len(lost)} rows name no picture that is there, e.g. {lost[0]!r}" if lost else ""
        twice = len(rows) - len(lost) - hits
        note += f"; {twice} rows repeat a picture and are left out" if twice else ""
        several = sum(len(row["text"]) > 1 for file, row in named if file and isinstance(row.get("text"), list))
        out.notes.append(note + (f"; the first of several captions is taken of {several}" if several else ""))
    if refusals and not out.rows:
        raise CnlabError(f"{root}/{refusals[0]}; bring the pictures that it names, or move the file away")
    return out


def _take(out: Matched, named: Iterable[tuple[str | None, dict[str, Any]]], below: str) -> int:
    """Remember the rows of pictures that have none yet; returns their number."""
    before = len(out.rows)
    for file, row in named:
        if file is not None:
            out.rows.setdefault(file, {**row, "": below})
    return len(out.rows) - before
