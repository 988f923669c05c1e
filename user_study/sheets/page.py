"""One sheet: a single HTML file that needs no network and tells nothing of what is compared."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.contract.errors import CnlabError
from pipeline.contract.files import read_json

TEMPLATES = Path(__file__).parent / "templates"
PLACEHOLDER = re.compile(r"\{\w+\}")
CAPTION_LIMIT = 1000  # characters; CLIP reads 77 tokens, so no caption in use comes near
#: Line and paragraph separators, and characters outside the printing classes (controls, direction overrides, halves
#: of surrogate pairs, private use), are shown as the replacement character.
HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
JOINERS = {"\u200c", "\u200d"}  # joiners: scripts and emoji need them


def clean_text(text: str, limit: int = CAPTION_LIMIT) -> str:
    """``text`` on one line, at most ``limit`` characters, with invisible and direction-changing ones made visible."""
    line = " ".join(text[: limit + 1].split())
    shown = "".join("�" if unicodedata.category(char) in HIDDEN and char not in JOINERS else char for char in line)
    return shown if len(text) <= limit else shown[:limit] + "…"


def data_uri(png: bytes) -> str:
    """``data:`` address of a PNG."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def payload_text(payload: dict[str, Any]) -> str:
    """JSON that may stand inside a ``<script>`` element: ASCII only, with <, > and & as escapes.

    U+2028, U+2029 and lone surrogates are escaped by the ASCII encoding.
    """
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def payload_token(text: str) -> str:
    """sha256 (hex) of the payload; the sheet computes it again when it exports, which shows an edited one."""
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def page_text(path: Path | None) -> dict[str, str]:
    """Every text of the page: the English table, or a translation with the same names and placeholders."""
    english: dict[str, str] = json.loads(_source("strings.en.json"))
    if path is None:
        return english
    table = read_json(path)
    if not isinstance(table, dict) or not all(isinstance(text, str) for text in table.values()):
        raise CnlabError(
            f"{path} is not a table of texts; copy user_study/sheets/templates/strings.en.json and edit it"
        )
    wrong = sorted(english.keys() ^ table.keys()) or [
        name
        for name, text in english.items()
        if set(PLACEHOLDER.findall(text)) != set(PLACEHOLDER.findall(table[name]))
    ]
    if wrong:
        raise CnlabError(
            f"{path}: {', '.join(wrong[:5])} missing, unknown or without the placeholders of the English text"
        )
    return {name: clean_text(text) for name, text in table.items()}


def render_sheet(payload: dict[str, Any]) -> tuple[bytes, str]:
    """The sheet as UTF-8 bytes, and its token. Same payload and code, same bytes.

    Parameters
    ----------
    payload
        ``study, sheet, seed, mode, question, labels, text`` and ``trials: [{id, block, shown: [...], map, caption,
        feedback}]``, pictures as data addresses, the last three null where there are none.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    script, style = _source("sha256.js") + _source("sheet.js"), _source("sheet.css")
    text = payload_text(payload)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    page = environment.get_template("sheet.html").render(
        t=payload["text"],
        mode=payload["mode"],
        names="ABCDEFGHIJ"[: len(payload["trials"][0]["shown"])],
        labels=payload["labels"],
        question=payload["question"],
        total=sum(trial["feedback"] is None for trial in payload["trials"]),
        script=script,
        style=style,
        script_hash=_csp_hash(script),
        style_hash=_csp_hash(style),
        payload=text,
    )
    return page.encode("utf-8"), payload_token(text)


@cache
def _source(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
