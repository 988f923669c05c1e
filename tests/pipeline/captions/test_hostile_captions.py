"""Captions that would do something elsewhere do nothing in our tables, pages, cards and terminals."""

from __future__ import annotations

import csv
import io
import json
import time
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from markdown_it import MarkdownIt
from photos import clean_photos
from PIL import Image

from pipeline.build.run import build
from pipeline.captions import clean_caption
from pipeline.config import DatasetConfig
from pipeline.contract.text import for_csv, for_html, for_markdown, for_terminal

HOSTILE = [
    "\x1b[31mred\x1b[0m alert",
    "\x1b]0;new title\x07 a window",
    "\x1b]8;;https://example.invalid\x1b\\click\x1b]8;;\x1b\\",
    "\x9b2J clear by a C1 control",
    "back\x08\x08\x08space and \r overwritten",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "' autofocus onfocus='alert(1)",
    "</li></ul><h1>mine</h1>",
    "![pixel](https://example.invalid/track.png)",
    "[click](javascript:alert(1))",
    "<https://example.invalid>",
    "www.example.invalid and https://example.invalid",
    "a | b | c",
    "# heading",
    "- list\n- of things",
    "---",
    "===",
    "1. first",
    "```\ncode",
    "*bold* _it_ ~~gone~~ `code`",
    '=HYPERLINK("https://example.invalid","x")',
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(A1:A9)",
    "\t=1+1",
    " =1+1",
    "＝1+1",
    "\u202eevil\u202c bidi override",
    "\u2066isolate\u2069",
    "zero\u200bwidth\ufeff",
    "NUL \x00 inside",
    "lone \ud800 surrogate \udfff",
    "{{ 7 * 7 }} {% raw %}",
    "{0.__class__} {key} %s %(x)s $HOME `id` $(id)",
    "---\nlicense: mit\n---",
    "family \U0001f468\u200d\U0001f469\u200d\U0001f467 and Persian می\u200cخواهم",
    "עברית עם English",
    "e\u0301 combining",
    "a" * 1_000_000,
    "\u0301" * 5_000,
]


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, list[str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, [name for name, _ in attrs]))


def tags(page: str) -> list[tuple[str, list[str]]]:
    parser = Tags()
    parser.feed(page)
    return parser.seen


def test_there_are_enough_of_them() -> None:
    assert len(set(HOSTILE)) >= 20


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_cleaned_captions_are_one_plain_line(text: str) -> None:
    began = time.process_time()
    made = clean_caption(text)
    assert time.process_time() - began < 60  # a guard against quadratic time, not a measurement
    assert made == clean_caption(made)
    assert made.encode("utf-8").decode("utf-8") == made
    assert not {unicodedata.category(c) for c in made} & {"Cc", "Cs", "Zl", "Zp"}
    assert not set(made) & set("\u202e\u202c\u2066\u2069\u200b\ufeff\x1b\x9b")
    assert "31m" not in made
    assert "new title" not in made


def test_cleaning_keeps_what_belongs_to_words() -> None:
    assert clean_caption("  a  red\tcube\n") == "a red cube"
    assert clean_caption("\U0001f468\u200d\U0001f469") == "\U0001f468\u200d\U0001f469"
    assert clean_caption("می\u200cخواهم") == "می\u200cخواهم"
    assert clean_caption("e\u0301") == "é"
    assert clean_caption("a\x00b") == "a b"
    assert clean_caption("\ud800") == "\ufffd\ufffd\ufffd"


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_terminal(text: str) -> None:
    shown = for_terminal(text)
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cs", "Zl", "Zp"}
    assert not set(shown) & set("\u202e\u202c\u2066\u2069\x1b\x9b")
    shown.encode("utf-8")


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_html(text: str) -> None:
    assert tags(f"<p title='{for_html(text)}'>{for_html(text)}</p>") == [("p", ["title"])]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_markdown(text: str) -> None:
    parser = MarkdownIt("commonmark").enable("table").enable("strikethrough")
    line = parser.render(for_markdown(text))
    assert {tag for tag, _ in tags(line)} <= {"p"}, line[:300]
    table = parser.render(f"| a | b |\n|---|---|\n| {for_markdown(text)} | end |")
    assert [tag for tag, _ in tags(table)] == ["table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td"]
    assert "<td>end</td>" in table


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_csv(text: str) -> None:
    out = io.StringIO()
    csv.writer(out).writerow([for_csv(text), "end"])
    cell, end = (
        next(csv.reader(io.StringIO(out.getvalue(), newline=""))) if len(text) < 10_000 else (for_csv(text), "end")
    )
    assert end == "end"
    assert not cell.lstrip().startswith(("=", "+", "-", "@", "＝"))
    assert len(out.getvalue().splitlines()) == 1


def test_a_build_with_hostile_captions_harms_nothing(tmp_path: Path) -> None:
    photos = clean_photos(len(HOSTILE) + 2, 96)
    for i, (photo, text) in enumerate(zip(photos, [*HOSTILE, "a plain caption", "another caption"], strict=True)):
        name = f"=1+{i}<b>{i}" if i % 2 else f"{i}"
        Image.fromarray(photo).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_bytes(text.encode("utf-8", "surrogatepass"))
    out = tmp_path / "out"
    config = DatasetConfig(
        source=f"folder:{tmp_path}", size="1k", eval_size=4, image_size=64, workers=0, name="set", out=out,
        captions=("sidecar",), duplicates="off",
        threshold={"max_blur": 9.0, "max_blockiness": 99.0, "min_chroma": -1.0, "max_border": 1.0, "min_contrast": 0.0},
    )  # fmt: skip
    build(config)
    folder = out / "set"
    frames = [pd.read_parquet(p) for p in sorted(folder.glob("*-0*.parquet"))]
    rows = pd.concat(frames)
    rejects = pd.read_parquet(folder / "rejects.parquet")
    assert len(rows) + len(rejects) == len(HOSTILE) + 2
    assert set(rejects.reason) <= {"caption_empty", "caption_too_long", "caption_not_text"}, rejects[["key", "reason"]]
    assert len(rejects) >= 6
    for text in rows.text:
        assert text == clean_caption(text)
    for line in (folder / "rejects.csv").read_text().splitlines()[1:]:
        assert not line.lstrip('"').startswith(("=", "+", "-", "@"))
    page = tags((folder / "rejects.html").read_text())
    assert {tag for tag, _ in page} <= {"meta", "title", "style", "h1", "h2", "ul", "li", "img", "span", "b", "br", "p"}
    assert not [names for _, names in page if any(n.startswith("on") for n in names)]
    card = (folder / "README.md").read_text()
    assert "<script" not in card
    assert json.loads((folder / "dataset.json").read_text())["counts"]
