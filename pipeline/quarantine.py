"""The table of rejects for people: a page of thumbnails by reason, and a CSV for spreadsheets."""

from __future__ import annotations

import base64
import csv
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from pipeline.inert import for_csv, for_terminal
from pipeline.io import atomic
from pipeline.seal import REJECTS

SHOWN = 48  # thumbnails a reason; the table has them all
PAGE = """<!doctype html>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Rejects of {{ name }}</title>
<style>
body { font: 14px/1.4 system-ui, sans-serif; margin: 2rem; color: #222; background: #fafaf8 }
ul { list-style: none; padding: 0; display: grid; grid-template-columns: repeat(auto-fill, 150px); gap: 14px }
li { overflow-wrap: anywhere; font-size: 11px }
img, .none { display: block; width: 96px; height: 96px; object-fit: contain }
.none { background: #e6e6e2; color: #777; text-align: center; line-height: 96px }
</style>
<h1>Rejects of {{ name }}</h1>
{% if not reasons %}<p>Nothing was rejected.</p>{% endif %}
{% for reason, rows, count in reasons %}
<h2>{{ reason }}: {{ count }}</h2>
<ul>{% for row in rows %}
<li>{% if row.src %}<img alt="" src="data:{{ row.kind }};base64,{{ row.src }}">
{%- else %}<span class="none">no image</span>{% endif %}
<b>{{ row.key }}</b><br>{{ row.detail }}</li>{% endfor %}
</ul>
{% endfor %}
"""


def write_quarantine(folder: Path) -> None:
    """Write rejects.html and rejects.csv from rejects.parquet. Keys and details come from outside: they stay text."""
    frame = pd.read_parquet(folder / REJECTS)
    with atomic(folder / "rejects.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["key", "rank", "split", "reason", "detail"])
        for row in frame.itertuples(index=False):
            writer.writerow([for_csv(str(row.key)), row.rank, row.split, row.reason, for_csv(str(row.detail))])
    reasons = []
    for reason, group in frame.groupby("reason", sort=True):
        rows = [_shown(row) for row in group.head(SHOWN).to_dict("records")]
        reasons.append((reason, rows, len(group)))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    text = environment.from_string(PAGE).render(name=folder.name, reasons=reasons)
    with atomic(folder / "rejects.html") as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace")


def _shown(row: Mapping[Hashable, Any]) -> dict[str, str]:
    thumbnail = row["thumbnail"]
    data = thumbnail["bytes"] if isinstance(thumbnail, dict) else b""
    return {
        "key": for_terminal(str(row["key"])),
        "detail": for_terminal(str(row["detail"])),
        "src": base64.b64encode(data or b"").decode(),
        "kind": "image/png" if (data or b"").startswith(b"\x89PNG") else "image/jpeg",
    }
