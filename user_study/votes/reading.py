"""Answers as they really arrive: byte order marks, UTF-16, pasted mails, zips, cut files. Nothing is judged here."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.contract.errors import CnlabError, first_line

FORMAT = "picture-answers"
MAX_BYTES = 8_000_000  # of a file; an answer takes some 250 bytes
MAX_MEMBERS = 10_000  # of a zip
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
    if path.stat().st_size > MAX_BYTES and not zipfile.is_zipfile(path):
        return [Document(str(path), None, "is too large for an answer file")]
    try:
        if zipfile.is_zipfile(path):
            return list(_members(path))
        return parse(path.read_bytes(), str(path))
    except OSError as error:
        return [Document(str(path), None, f"cannot be read ({first_line(error)})")]


def _members(path: Path) -> Iterator[Document]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.is_dir()]
            for member in members[:MAX_MEMBERS]:
                name = f"{path}/{member.filename}"
                if any(HIDDEN.match(part) for part in Path(member.filename).parts):
                    continue
                if member.file_size > MAX_BYTES:
                    yield Document(name, None, "is too large for an answer file")
                elif member.flag_bits & 1:
                    yield Document(name, None, "is encrypted; unpack the zip file and import the folder")
                else:
                    with archive.open(member) as handle:
                        yield from parse(handle.read(MAX_BYTES), name)
            if len(members) > MAX_MEMBERS:
                yield Document(str(path), None, f"holds more than {MAX_MEMBERS} files; unpack it and import in parts")
    except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError, ValueError) as error:
        yield Document(str(path), None, f"is a damaged zip file ({first_line(error)}); ask for it again")


def parse(data: bytes, source: str) -> list[Document]:
    """Documents in the bytes of one file: JSON anywhere in it, or the CSV of a sheet."""
    if not data.strip(b"\0 \t\r\n"):
        return [Document(source, None, "is empty; ask for the file again")]
    text = decode(data).translate(PLAIN)
    documents = [Document(source, _plain_numbers(d)) for d in _json_documents(text)]
    if documents:
        return documents
    if re.search(r"study\W{1,3}sheet\W{1,3}token", text[:4000]):
        rows = _csv_documents(text)
        if rows:
            return [Document(source, row) for row in rows]
    cut = _recover(text)
    if cut is not None:
        return [Document(source, _plain_numbers(cut), "was cut or damaged; its whole answers were taken")]
    return [Document(source, None, "is not an answer file of a sheet")]


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


def _json_documents(text: str) -> list[dict[str, Any]]:
    """Every answer document that stands whole in a text, bare or in a list, also with a mail around it or quoted."""
    for candidate in (text, re.sub(r"^(?:> ?)+", "", text, flags=re.MULTILINE)):
        documents = list(_scan(candidate))
        if documents:
            return documents
    return []


def _scan(text: str) -> Iterator[dict[str, Any]]:
    decoder, at = json.JSONDecoder(strict=False), 0
    while (match := re.compile(r"[\[{]").search(text, at)) is not None:
        try:
            value, at = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            following = text.find(f'"{FORMAT}"', match.end())
            if following < 0:
                return
            at = max(match.end(), text.rfind("{", match.end(), following))
            continue
        yield from (v for v in (value if isinstance(value, list) else [value]) if _is_document(v))


def _is_document(value: object) -> bool:
    return isinstance(value, dict) and value.get("format") == FORMAT


def _plain_numbers(value: Any) -> Any:
    """900.0 is 900: programs that open and save JSON write whole numbers either way."""
    if isinstance(value, dict):
        return {name: _plain_numbers(v) for name, v in value.items()}
    if isinstance(value, list):
        return [_plain_numbers(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _csv_documents(text: str) -> list[dict[str, Any]]:
    """The CSV that a sheet saves, with whatever separator a spreadsheet gave it."""
    lines = text.lstrip().splitlines()
    separator = max(",;\t", key=lines[0].count)
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in csv.DictReader(io.StringIO("\n".join(lines)), delimiter=separator):
        head = tuple((row.get(name) or "").strip() for name in HEAD)
        answer: dict[str, Any] = {name: (row.get(name) or "").strip() for name in FIELDS}
        for name in ("response_ms", "hidden_ms", "views"):
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


def _whole(text: str) -> Any:
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if number.is_integer() else text


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
