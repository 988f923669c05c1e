"""The table of rejects for people: a page of thumbnails by reason, and a CSV for spreadsheets."""

from __future__ import annotations

import base64
import csv
from collections import Counter
from pathlib import Path
from typing import Any

import jinja2
import pyarrow.parquet as pq

from pipeline.contract.dataset import REJECTS
from pipeline.contract.files import atomic
from pipeline.contract.text import for_csv, for_terminal

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
{% if count > most %}<p>The first {{ most }}; rejects.parquet has them all.</p>{% endif %}
<ul>{% for row in rows %}
<li>{% if row.src %}<img alt="" src="data:{{ row.kind }};base64,{{ row.src }}">
{%- else %}<span class="none">no image</span>{% endif %}
<b>{{ row.key }}</b><br>{{ row.detail }}</li>{% endfor %}
</ul>
{% endfor %}
"""


def write_quarantine(folder: Path) -> None:
    """Write rejects.html and rejects.csv from rejects.parquet. Keys and details come from outside: they stay text."""
    counts: Counter[str] = Counter()
    shown: dict[str, list[dict[str, str]]] = {}
    with atomic(folder / "rejects.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["key", "rank", "split", "reason", "detail"])
        for batch in pq.ParquetFile(folder / REJECTS).iter_batches(1024):
            for row in batch.to_pylist():
                reason = row["reason"]
                writer.writerow([for_csv(row["key"]), row["rank"], row["split"], reason, for_csv(row["detail"])])
                counts[reason] += 1
                if counts[reason] <= SHOWN:
                    shown.setdefault(reason, []).append(_shown(row))
    reasons = [(reason, shown[reason], counts[reason]) for reason in sorted(counts)]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    text = environment.from_string(PAGE).render(name=folder.name, reasons=reasons, most=SHOWN)
    with atomic(folder / "rejects.html") as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace")


def _shown(row: dict[str, Any]) -> dict[str, str]:
    data = row["thumbnail"]["bytes"] if row["thumbnail"] else b""
    return {
        "key": for_terminal(row["key"]),
        "detail": for_terminal(row["detail"]),
        "src": base64.b64encode(data).decode(),
        "kind": "image/png" if data.startswith(b"\x89PNG") else "image/jpeg",
    }
