"""Answers as they really arrive: byte order marks, UTF-16, pasted mails, zips, cut files. Nothing is judged here."""

from __future__ import annotations

import csv
import email
import html
import io
import itertools
import json
import lzma
import quopri
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pipeline.contract.errors import CnlabError, first_line

FORMAT = "picture-answers"
MAX_BYTES = 8_000_000  # of a file; an answer takes some 250 bytes
MAX_MEMBERS = 10_000  # of a zip
MAX_NESTED = 2  # zips and mails within each other
NO_ANSWERS = "is not an answer file of a sheet"
SHEET = "is a sheet, not its answers; ask for the file that the sheet saves"
WORKBOOKS = {"xl/workbook.xml", "content.xml"}  # members of Excel's and LibreOffice's files
SPREADSHEET = "is a spreadsheet; save it as CSV and import that"
CUT = "was cut or damaged; its whole answers were taken"
LOST = "holds an answer file that was cut or rewritten by another program; ask for the original file"
ZIP, GZIP = b"PK\x03\x04", b"\x1f\x8b"
NUMBERS = ("response_ms", "hidden_ms", "views")
PACKED = (b"BZh", b"\xfd7zXZ\x00")  # tar files packed by these; those of gzip are tried after GZIP
COLUMNS = {"study", "sheet", "token", "rater", "trial", "choice"}  # by which the CSV of a sheet is known
SEPARATORS = ",;\t|"
SHEET_MARK = 'type="application/json" id="data"'
MAIL = re.compile(rb"(?:[\w-]+:[^\n]*\n(?:[ \t][^\n]*\n)*){3}")  # three header lines, folded ones included
BRACKET = re.compile(r"[\[{]")
#: What mail programs and word processors put in the place of plain characters.
PLAIN = str.maketrans({"\u00a0": " ", "\u2007": " ", "\u202f": " ", "\u201c": '"', "\u201d": '"', "\u201e": '"',
                       "\u00ab": '"', "\u00bb": '"', "\u200b": None, "\ufeff": None, "\0": None})  # fmt: skip
HEAD = ("study", "sheet", "token", "seed", "rater", "started", "finished")
FIELDS = ("trial", "choice", "response_ms", "hidden_ms", "views", "window", "seal")
HIDDEN = re.compile(r"^(\._.*|\..*|__MACOSX|Thumbs\.db|desktop\.ini)$", re.IGNORECASE)


@dataclass(frozen=True)
class Document:
    """One answer document and where it was; ``problem`` says what was wrong with its file, empty when nothing."""

    source: str
    content: dict[str, Any] | None
    problem: str = ""


def read_documents(paths: Iterable[Path]) -> list[Document]:
    """Every answer document in files, folders (with subfolders) and zip files.

    Raises CnlabError for a path that does not exist, and when there is no file at all.
    """
    documents: list[Document] = []
    files = 0
    for path in paths:
        if not path.exists():
            raise CnlabError(f"{path} does not exist; give answer files, or folders or zip files of them")
        inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in inside:
            if path.is_dir() and any(HIDDEN.match(part) for part in file.relative_to(path).parts):
                continue  # what operating systems put beside files
            files += 1
            documents += _read_file(file)
    if not files:
        raise CnlabError("no answer files there; give the files that the sheets saved, or folders or zips of them")
    return documents


def _read_file(path: Path) -> list[Document]:
    try:
        if zipfile.is_zipfile(path):
            return _unpacked(path, str(path))
        if path.stat().st_size > MAX_BYTES:
            return [Document(str(path), None, "is too large for an answer file")]
        return parse(path.read_bytes(), str(path))
    except OSError as error:
        return [Document(str(path), None, f"cannot be read ({first_line(error)})")]


def _unpacked(archive_file: Path | io.BytesIO, source: str, depth: int = 0) -> list[Document]:
    documents = list(_members(archive_file, source, depth))
    names = {document.source.removeprefix(f"{source}/") for document in documents}
    if names & WORKBOOKS and all(document.content is None for document in documents):
        return [Document(source, None, SPREADSHEET)]
    return documents


def _members(archive_file: Path | io.BytesIO, source: str, depth: int = 0) -> Iterator[Document]:
    try:
        with zipfile.ZipFile(archive_file) as archive:
            members = [m for m in archive.infolist() if not m.is_dir()]
            for member in members[:MAX_MEMBERS]:
                name = f"{source}/{member.filename}"
                if any(HIDDEN.match(part) for part in Path(member.filename).parts):
                    continue
                if member.file_size > MAX_BYTES:
                    yield Document(name, None, "is too large for an answer file")
                elif member.flag_bits & 1:
                    yield Document(name, None, "is encrypted; unpack the zip file and import the folder")
                else:
                    with archive.open(member) as handle:
                        yield from parse(handle.read(MAX_BYTES), name, depth + 1)
            if len(members) > MAX_MEMBERS:
                yield Document(source, None, f"holds more than {MAX_MEMBERS} files; unpack it and import in parts")
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, OSError, EOFError, ValueError) as error:
        yield Document(source, None, f"is a damaged zip file ({first_line(error)}); ask for it again")


def parse(data: bytes, source: str, depth: int = 0) -> list[Document]:
    """Documents in the bytes of one file: JSON anywhere in it, the CSV of a sheet, or a mail or zip file of those."""
    if not data.strip(b"\0 \t\r\n"):
        return [Document(source, None, "is empty; ask for the file again")]
    inside: list[Document] = []
    if data.startswith(GZIP) and depth < MAX_NESTED:
        inside = _unzipped(data, source, depth)
    elif data.startswith(ZIP) and depth < MAX_NESTED:
        inside = _unpacked(io.BytesIO(data), source, depth)
    elif (data.startswith(PACKED) or data[257:262] == b"ustar") and depth <= MAX_NESTED:
        inside = _tarred(data, source, depth)
    elif MAIL.match(data) and depth <= MAX_NESTED:
        inside = [d for part in _mail_parts(data) for d in parse(part, source, depth + 1) if d.content is not None]
    try:
        return inside or _parse_text(decode(data).translate(PLAIN), source) or [Document(source, None, NO_ANSWERS)]
    except RecursionError:  # nested deeper than any sheet writes
        return [Document(source, None, NO_ANSWERS)]


def _unzipped(data: bytes, source: str, depth: int) -> list[Document]:
    try:
        return parse(zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, MAX_BYTES), source, depth + 1)
    except zlib.error as error:
        return [Document(source, None, f"is a damaged gzip file ({first_line(error)}); ask for it again")]


def _tarred(data: bytes, source: str, depth: int) -> list[Document]:
    try:
        documents = []
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in itertools.islice(archive, MAX_MEMBERS):
                handle = archive.extractfile(member) if member.isfile() and member.size <= MAX_BYTES else None
                if handle and not any(HIDDEN.match(part) for part in Path(member.name).parts):
                    documents += parse(handle.read(), f"{source}/{member.name}", depth + 1)
        return documents
    except (tarfile.TarError, zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
        return [Document(source, None, f"is a damaged tar file ({first_line(error)}); ask for it again")]


def _mail_parts(data: bytes) -> list[bytes]:
    """What a saved mail holds, transfer encodings undone; attachments before the text around them."""
    parts = [part for part in email.message_from_bytes(data).walk() if not part.is_multipart()]
    parts.sort(key=lambda part: part.get_filename() is None)
    contents = (part.get_payload(decode=True) for part in parts)
    return [content for content in contents if isinstance(content, bytes) and content.strip()]


def _parse_text(text: str, source: str, cells: bool = True) -> list[Document]:
    """Documents of a text, whatever rewrote it; of one that was cut, its whole answers."""
    if "token" in text.lower() and (rows := _csv_documents(text)):
        return [Document(source, row) for row in rows]
    began = False
    for candidate in _originals(text):
        whole, pieces = _scan(candidate)
        cut = [_recover(piece) for piece in pieces]
        if whole or any(cut):
            documents = [Document(source, _plain(each)) for each in whole]
            documents += [Document(source, _plain(each), CUT) for each in cut if each]
            return documents + [Document(source, None, LOST)] * cut.count(None)
        began = began or bool(pieces)
    for separator in SEPARATORS if cells else "":  # of a table in which a form or survey exports what was pasted
        pasted = [cell for row in _table(text, separator) for cell in row if "token" in cell and len(cell) < len(text)]
        inside = [document for cell in pasted for document in _parse_text(cell, source, cells=False)]
        if any(document.content is not None for document in inside):
            return inside
    if SHEET_MARK in text:
        return [Document(source, None, SHEET)]
    return [Document(source, None, LOST)] if began else []


def _table(text: str, separator: str) -> list[list[str]]:
    lines = io.StringIO("\n".join(text.splitlines()))
    try:
        return list(csv.reader(lines, delimiter=separator, skipinitialspace=True))
    except csv.Error:  # no table
        return []


def _originals(text: str) -> Iterator[str]:
    """What a text may have been before a mail or another program rewrote it, likeliest first.

    Nothing in an answer file needs its line breaks, so they go: mails break long lines anywhere.
    """
    if re.search(r"=\r?\n", text):  # quoted-printable, of a mail that was copied without its head
        text = quopri.decodestring(text.encode()).decode(errors="replace")
    joined = re.sub(r"[\r\n]+", "", text)
    yield joined
    yield re.sub(r"[\r\n]+", "", re.sub(r"^(?:[>|] ?)+", "", text, flags=re.MULTILINE))
    yield joined.replace('\\"', '"').replace("\\n", "")
    yield html.unescape(html.unescape(re.sub(r"<[^<>]*>", "", joined)))
    yield re.sub(r"\\([{}])|\\[a-z]+-?\d* ?", r"\1", joined)  # rich text
    yield re.sub(r"\bNone\b", "null", joined.replace("'", '"')).replace(": True", ": true")  # printed by Python
    yield unquote(joined)


def decode(data: bytes) -> str:
    """Text of a file in UTF-8 or UTF-16, with or without a mark; anything else as Windows writes it."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace")
    if data[1:40:2].count(0) > 10 or data[0:40:2].count(0) > 10:  # UTF-16 without its mark
        return data.decode("utf-16-le" if data[1] == 0 else "utf-16-be", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def _scan(text: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Answer documents that stand whole in a text, at any depth of any JSON in it; and pieces that began as one."""
    decoder, at, end = json.JSONDecoder(strict=False), 0, 0
    documents: list[dict[str, Any]] = []
    between = []  # text outside the values that hold documents
    while text.find(FORMAT, at) >= 0 and (match := BRACKET.search(text, at)) is not None:
        try:
            value, after = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            at = match.end()
            continue
        inside = list(_documents_in(value))
        if inside:
            between.append(text[end : match.start()])
            documents += inside
            end = after
        at = after
    between.append(text[end:])
    pieces = [piece for part in between for piece in re.split(rf'(?="{FORMAT}")', part)[1:]]
    return documents, pieces


def _documents_in(value: object) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict) and value.get("format") == FORMAT:
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _documents_in(inner)
    elif isinstance(value, str) and f'"{FORMAT}"' in value:
        yield from _scan(value)[0]


def _plain(value: Any) -> Any:
    """900.0 and "900" are 900: programs that save JSON write numbers as they like. Lone surrogates become ``?``."""
    if isinstance(value, dict):
        return {_plain(name): _whole(v) if name in NUMBERS else _plain(v) for name, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    return _whole(value) if isinstance(value, float) else value


def _csv_documents(text: str) -> list[dict[str, Any]]:
    """The CSV that a sheet saves, as spreadsheets write it: any separator, lines before the head, several heads."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for _, row in csv_rows(text, COLUMNS):
        head = tuple(row.get(name, "") for name in HEAD)
        answer: dict[str, Any] = {name: row.get(name, "") for name in FIELDS}
        for name in NUMBERS:
            answer[name] = _whole(answer[name])
        answer["window"] = [_whole(edge) for edge in str(answer["window"]).split("x")]
        groups.setdefault(head, []).append(answer)
    return [
        {
            "format": FORMAT,
            "version": 2,
            "payload": {**dict(zip(HEAD, head, strict=True)), "finished": head[-1] or None, "answers": answers},
        }
        for head, answers in groups.items()
        if head[0]
    ]


def csv_rows(text: str, columns: set[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Number and cells of each row below a head that has ``columns``, in any order, case and usual separator."""
    for separator in SEPARATORS:
        names: list[str] = []
        for number, row in enumerate(_table(text, separator), start=1):
            cells = [cell.strip() for cell in row]
            if {cell.lower() for cell in cells} >= columns:
                names = [cell.lower() for cell in cells]
            elif names and any(cells):
                yield number, dict(zip(names, cells, strict=False))
        if names:
            return


def _whole(value: Any) -> Any:
    """The whole number of a text or a number, a decimal comma allowed; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, str | float):
        return value
    try:
        number = float(value.replace(",", ".") if isinstance(value, str) else value)
    except ValueError:
        return value
    return int(number) if number.is_integer() else value


def _recover(text: str) -> dict[str, Any] | None:
    """What is whole in a damaged document: its head, and each answer that is a JSON object by itself."""
    head = {name: match[1] for name in HEAD if (match := re.search(rf'"{name}"\s*:\s*"([^"]*)"', text)) is not None}
    if f'"{FORMAT}"' not in text or not {"study", "sheet", "token", "rater"} <= head.keys():
        return None
    answers = []
    for match in re.finditer(r"\{[^{}]*\}", text):
        try:
            value = json.loads(match[0], strict=False)
        except ValueError:
            continue
        if isinstance(value, dict) and "trial" in value:
            answers.append(value)
    payload = {**head, "finished": head.get("finished"), "answers": answers}
    return {"format": FORMAT, "version": 2, "payload": payload} if answers else None
