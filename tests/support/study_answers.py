"""Answer files of the small world as they come, and what an import makes of them."""

from __future__ import annotations

import io
import json
import zipfile
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pandas as pd
from study_world import World

from user_study.config import Import
from user_study.study_folder import read_study
from user_study.votes.answers import check
from user_study.votes.collect import import_answers, merge, votes_table
from user_study.votes.reading import read_documents

TRIALS = 15  # of a sheet of the small world


def a_wins(_: dict[str, Any]) -> str:
    return "a"


def page(study: Path, number: int = 1) -> Path:
    return study / "sheets" / f"sheet-{number:02d}.html"


def write(folder: Path, documents: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for n, document in enumerate(documents):
        (folder / f"{n}.json").write_text(json.dumps(document, indent=1))
    return folder


def load(world: World, *paths: Path, label: str = "") -> None:
    import_answers(Import(world.study, paths, world.config.results, world.root / "runs", label))


def table(world: World) -> pd.DataFrame:
    return pd.read_parquet(world.config.results / "results.parquet").set_index("metric")


def votes_of(study: Path) -> pd.DataFrame:
    return pd.read_parquet(study / "votes.parquet")


def csv_of(document: dict[str, Any]) -> str:
    """The CSV that a sheet saves, with a spreadsheet's separators."""
    payload = document["payload"] or {"answers": []}
    own = ("study", "sheet", "token", "seed", "rater", "started", "finished")
    fields = ("trial", "choice", "response_ms", "hidden_ms", "views", "window", "seal")
    head = [str(payload.get(name)) for name in own]
    lines = [[*own, *fields]]
    lines += [
        [*head, *("x".join(map(str, a[f])) if f == "window" else str(a[f]) for f in fields)]
        for a in payload.get("answers", [])
    ]
    return "\r\n".join(";".join(line) for line in lines)


def mail(content: str | bytes, encoding: str) -> bytes:
    """A saved mail with an answer file attached."""
    message = EmailMessage()
    message["Subject"], message["From"] = "my answers", "r1@example.org"
    message["To"] = "study@example.org"
    message.set_content("Hello, see {below}.")
    data = content.encode() if isinstance(content, str) else content
    message.add_attachment(data, maintype="application", subtype="octet-stream", filename="a.json", cte=encoding)
    return message.as_bytes()


def zipped(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr(name, data)
    return buffer.getvalue()


def taken(study: Path, *paths: Path) -> tuple[int, list[str]]:
    """Votes that an import would count, and what it would list."""
    whole = read_study(study)
    filled = [check(document, whole) for document in read_documents(paths)]
    sessions, remarks = merge([each for each in filled if each.answers])
    return len(votes_table(whole, sessions)), [p for each in filled for p in each.problems] + remarks
