from __future__ import annotations

import gzip
import html
import io
import json
import quopri
import re
import shutil
import tarfile
import textwrap
import zipfile
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import pytest
from study_answers import TRIALS, a_wins, csv_of, load, mail, page, taken, votes_of, zipped
from study_world import World, answer, prefer

from pipeline.contract.errors import CnlabError
from pipeline.contract.files import read_json
from user_study.config import Simulate
from user_study.votes import answers
from user_study.votes.simulate import simulate_study


def variants(text: str) -> dict[str, tuple[str, bytes]]:
    """The same file as it comes: name and bytes."""
    document = json.loads(text)
    quoted = "On Monday r1 wrote:\n" + "\n".join("> " + line for line in text.splitlines()) + "\n-- \nregards"
    return {
        "plain": ("a.json", text.encode()),
        "renamed": ("answers-sheet-01-r1 (1).json", text.encode()),
        "bom and CRLF": ("a.json", b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()),
        "utf-16": ("a.json", text.encode("utf-16")),
        "utf-16 without mark": ("a.json", text.encode("utf-16-le")),
        "minified": ("a.json", json.dumps(document, sort_keys=True).encode()),
        "json.txt": ("a.json.txt", text.encode()),
        "upper case": ("A.JSON", text.encode()),
        "in subfolders": ("mailed/monday/a.json", text.encode()),
        "pasted": ("pasted.txt", ("Hello,\nhere it is:\n" + text + "\nBye {smile}").encode()),
        "quoted mail": ("mail.eml", quoted.encode()),
        "blank lines": ("a.json", ("\n\n" + text + "\n \n").encode()),
        "no-break spaces": ("a.json", text.replace("\n ", "\n\u00a0").encode()),
        "curly quotes": ("a.txt", text.replace('": ', "\u201d: ").replace(' "', " \u201c").encode()),
        "floats": ("a.json", text.replace('"response_ms": 900', '"response_ms": 900.0').encode()),
        "list": ("all.json", f"[{text}, {text}]".encode()),
        "wrapped": ("form.json", json.dumps({"responses": [{"id": 1, "file": document}]}).encode()),
        "escaped in JSON": ("chat.json", json.dumps({"messages": [{"text": text}]}).encode()),
        "escaped alone": ("a.json", json.dumps(text).encode()),
        "attached to a mail": ("mail.eml", mail(text, "base64")),
        "quoted-printable mail": ("mail.eml", mail(text, "quoted-printable")),
        "zip in a zip": ("all.zip", zipped("mailed.zip", zipped("a.json", text.encode()))),
        "attached zip": ("mail.eml", mail(zipped("a.json", text.encode()), "base64")),
        "end marks of Unix and Windows": ("a.json", (text + "\x1a\r\n").encode()),
        "utf-32": ("a.json", text.encode("utf-32")),
        "gzip": ("a.json.gz", gzip.compress(text.encode())),
        "numbers as text": ("a.json", text.replace('"response_ms": 900', '"response_ms": "900"').encode()),
        "lines broken anywhere": ("a.txt", "\r\n".join(textwrap.wrap(json.dumps(document), 70)).encode()),
        "as a web page": ("a.html", f"<pre>{html.escape(text)}</pre>".encode()),
        "in a Word document": ("a.docx", zipped("word/document.xml", f"<t>{html.escape(text)}</t>".encode())),
        "csv after a line for Excel": ("a.csv", ("sep=;\r\n" + csv_of(document)).encode("utf-8-sig")),
        **tables(document, text),
        "tar": ("all.tar", tarred("a.json", text.encode(), "w")),
        "tar.gz": ("all.tar.gz", tarred("a.json", text.encode(), "w:gz")),
        "tar.xz": ("all.tar.xz", tarred("a.json", text.encode(), "w:xz")),
        "printed by Python": ("a.txt", repr(document).encode()),
        "rich text": ("a.rtf", rich(text).encode()),
        "quoted-printable without its mail": ("a.txt", quopri.encodestring(text.encode())),
        "in an address": ("a.txt", f"mailto:a@example.org?body={quote(json.dumps(document))}".encode()),
        "quoted with bars": ("a.txt", "\n".join("| " + line for line in text.splitlines()).encode()),
        "escaped twice": ("a.html", html.escape(html.escape(text)).encode()),
    }


def tables(document: dict[str, Any], text: str) -> dict[str, tuple[str, bytes]]:
    """The sheet's CSV as spreadsheets rewrite it, and tables of a form in which the answers were pasted."""
    lines = csv_of(document).split("\r\n")
    rows = [line.split(";") for line in lines]
    decimals = [line.replace(";900;", ";900,0;") for line in lines]
    form = [["Timestamp", "Paste your answers"], ["2026-01-01", text]]
    return {
        "csv with decimal commas": ("a.csv", "\r\n".join(decimals).encode("cp1252")),
        "csv with every cell quoted": ("a.csv", delimited(rows, ", ").encode()),
        "csv with bars": ("a.csv", "\n".join(lines).replace(";", "|").encode()),
        "csv of tabs in utf-16": ("a.txt", "\r\n".join(lines).replace(";", "\t").encode("utf-16")),
        "csv with its columns turned round": ("a.csv", delimited([row[::-1] for row in rows], ";").encode()),
        "csv with an upper head": ("a.csv", "\n".join([lines[0].upper(), *lines[1:]]).encode()),
        "csv with a head between": ("a.csv", "\n".join([*lines[:5], lines[0], *lines[5:]]).encode()),
        "csv below a title": ("a.csv", "\n".join(["My answers;;", "", *lines]).encode()),
        "pasted into a form": ("form.csv", delimited(form, ",").encode()),
        "pasted into a form, tabs": ("form.tsv", delimited(form, "\t").encode("utf-16")),
        "csv pasted into a form": ("form.csv", delimited([form[0], ["x", "\n".join(lines)]], ",").encode()),
    }


def delimited(rows: list[list[str]], separator: str) -> str:
    return "\r\n".join(separator.join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows)


def rich(text: str) -> str:
    return "{\\rtf1\\ansi " + re.sub(r"([{}])", r"\\\1", text).replace("\n", "\\par\n") + "}"


def tarred(name: str, data: bytes, mode: Literal["w", "w:gz", "w:xz"]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", variants('{"payload": {}}'))
def test_a_good_file_in_whatever_clothes(fixed: World, tmp_path: Path, kind: str) -> None:
    text = json.dumps(answer(page(fixed.study), "r1", prefer(fixed.study, a_wins)), indent=1)
    name, data = variants(text)[kind]
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    for extra in ("._answers.json", ".DS_Store", "__MACOSX/x.json"):
        (tmp_path / extra).parent.mkdir(exist_ok=True)
        (tmp_path / extra).write_bytes(b"\0\5\x16\7")
    assert taken(fixed.study, tmp_path) == (TRIALS, [])


def test_a_spreadsheet_and_a_sheet_are_named_as_what_they_are(fixed: World, tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_bytes(zipped("xl/workbook.xml", b"<workbook/>"))
    shutil.copy(page(fixed.study), tmp_path / "b.html")
    count, problems = taken(fixed.study, tmp_path)
    assert count == 0 and problems == [
        "is a spreadsheet; save it as CSV and import that",
        "is a sheet, not its answers; ask for the file that the sheet saves",
    ]


def test_numbers_that_a_spreadsheet_made_of_texts(fixed: World, tmp_path: Path, monkeypatch: Any) -> None:
    """Rater 007 becomes 7, a seal of digits 1.23457E+15; another one is still refused."""
    lines = csv_of(answer(page(fixed.study), "007", prefer(fixed.study, a_wins))).split("\r\n")
    (tmp_path / "a.csv").write_text("\n".join(line.replace(";007;", ";7;") for line in lines))
    assert taken(fixed.study, tmp_path) == (TRIALS, [])
    seals = iter(["1234567890123456", "12345678901e1234", "4444444444444444", *["0" * 15 + "a"] * 50])
    written = dict(zip((line.split(";")[-1] for line in lines[1:]), seals, strict=False))
    known = answers.answer_seal
    monkeypatch.setattr(answers, "answer_seal", lambda *parts: written[known(*parts)])
    cells = [line.rsplit(";", 1) for line in lines]
    shown = ["seal", "1,23457E+15", "12345678901e1234", "5,55556E+15", *["0" * 15 + "a"] * 50]
    (tmp_path / "a.csv").write_text("\n".join(f"{line};{cell}" for (line, _), cell in zip(cells, shown, strict=False)))
    count, problems = taken(fixed.study, tmp_path)
    assert count == TRIALS - 1 and "answer 3: was edited" in str(problems)


def test_zip_csv_and_json_of_one_session_count_once(world: World) -> None:
    study = world.make()
    document = answer(page(study), "r1", prefer(study, a_wins))
    archive = world.root / "all.zip"
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("sub/a.json", json.dumps(document))
        out.writestr("a.csv", csv_of(document))
        out.writestr("__MACOSX/._a.json", "x")
    load(world, archive)
    assert len(votes_of(study)) == TRIALS


def test_a_cut_file_gives_its_whole_answers(fixed: World, tmp_path: Path) -> None:
    text = json.dumps(answer(page(fixed.study), "r1", prefer(fixed.study, a_wins)), indent=1)
    (tmp_path / "cut.json").write_text(text[: text.rindex('"choice"')])
    assert taken(fixed.study, tmp_path)[0] == TRIALS - 1


def test_of_two_files_in_one_the_cut_one_is_not_lost(fixed: World, tmp_path: Path) -> None:
    one, two = (
        json.dumps(answer(page(fixed.study), rater, prefer(fixed.study, a_wins)), indent=1) for rater in ("r1", "r2")
    )
    cut = two[: two.rindex('"choice"')]
    path = tmp_path / "a.json"
    for text in (one + "\n" + cut, cut + "\n" + one, f"[{one}, {cut}"):
        path.write_text(text)
        assert taken(fixed.study, path)[0] == 2 * TRIALS - 1
    path.write_text(one + '{"format": "picture-answers", "version": 2, "payload": {"study": ')
    count, problems = taken(fixed.study, path)
    assert count == TRIALS and "was cut or rewritten" in str(problems)


def test_a_cut_simulated_file_stays_simulated(world: World) -> None:
    study = world.make()
    simulate_study(Simulate(study, raters=1, careless=0, bursts=0))
    document = read_json(next((study / "simulated" / "answers").glob("*.json")))
    answers = document["payload"].pop("answers")
    text = json.dumps({"format": document["format"], "payload": {**document["payload"], "answers": answers}})
    text = text.replace('"simulated": true', "")
    path = world.root / "cut.json"
    path.write_text(text[: text.rindex('"choice"')])
    load(world, path)
    assert not (study / "votes.parquet").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not an answer file"),
        ("\udcff\udcfe", "not an answer file"),
        ("[" * 100_000, "not an answer file"),
        ("[]", "not an answer file"),
        ('{"format": "x"}', "not an answer file"),
        ('{"format": "picture-answers", "version": 3, "payload": {}}', "answer format 3"),
        ('{"format": "picture-answers", "version": 2, "payload": {}}', "parts missing"),
        ("", "empty"),
        (" " * 9_000_000, "too large"),
        ("PK\x03\x04" + "x" * 100, "damaged zip file"),
        ('{"format": "picture-answers", "payload": ' + "[" * 400 + "]" * 400 + "}", "not an answer file"),
        ('{"format": "picture-answers", "payload": ' + "[" * 5000 + "]" * 5000 + "}", "was cut or rewritten"),
        ('{"format": "picture-answers", "payload": {"study": "', "was cut or rewritten"),
        ('{"format": "picture-answers", "version": 2, "payload": {"study": "\\ud800"}}', "parts missing"),
    ],
    ids=range(14),
)
def test_files_that_are_no_answers(fixed: World, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    count, problems = taken(fixed.study, path)
    assert count == 0 and message in str(problems)


def test_an_import_of_nothing_ends_in_one_line(world: World) -> None:
    study = world.make()
    (world.root / "x.json").write_text("{")
    with pytest.raises(CnlabError, match=r"none of 1 files could be used; .*x\.json is not an answer file"):
        load(world, world.root / "x.json")
    assert not (study / "votes.parquet").exists()


def test_paths_without_answers(world: World) -> None:
    world.make()
    (world.root / "empty").mkdir()
    for paths, message in (((world.root / "empty",), "no answer files"), ((world.root / "no",), "not exist")):
        with pytest.raises(CnlabError, match=message):
            load(world, *paths)
