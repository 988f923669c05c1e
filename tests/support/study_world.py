"""Tiny generation folders and a tiny dataset as docs/formats.md describes them, and a rater made of code."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, PngImagePlugin

from pipeline.contract.files import write_json
from pipeline.contract.identity import canonical
from user_study.config import Items, Make
from user_study.design.trials import digest
from user_study.sheets.make import make_study

SIZE = 16
HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\u202eright to left\u202c",
    "nul\0inside",
    "=HYPERLINK(1) & {{ 7*7 }} \u2028 <!--",
    "x" * 5000,
)
CAPTIONS = ("a red sphere on a wooden floor", *HOSTILE)
RUN_A, RUN_B = "zebrarun-50k", "yakrun-1k"


def png(seed: int, size: int = SIZE, flat: bool = False, **text: str) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    pixels = pixels * 0 + pixels[:1, :1] if flat else pixels
    info = PngImagePlugin.PngInfo()
    for name, value in text.items():
        info.add_text(name, value)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def write_dataset(folder: Path, count: int) -> None:
    rows = [
        {
            "key": f"secretkey/{n:04d}",
            "text": CAPTIONS[n % len(CAPTIONS)],
            "conditioning_image": {"bytes": png(1000 + n), "path": None},
            "canny": {"bytes": png(1000 + n), "path": None},
            "softedge": {"bytes": png(2000 + n), "path": None},
            "image": {"bytes": png(3000 + n), "path": None},
        }
        for n in range(count)
    ]
    folder.mkdir(parents=True)
    shards = []
    for part in range(2):
        name = f"eval-{part:05d}.parquet"
        pq.write_table(pa.Table.from_pylist(rows[part::2]), folder / name)
        shards.append({"file": name, "split": "eval", "rows": len(rows[part::2]), "sha256": str(part) * 64})
    pq.write_table(pa.Table.from_pylist(rows[:1]), folder / "eval-99999.parquet")  # stray: the header does not name it
    header = {"name": folder.name, "fingerprint": "d" * 64, "conditions": ["canny", "softedge"], "image_size": SIZE}
    header["shards"] = shards
    write_json(folder / "dataset.json", header)


def write_side(
    results: Path, run: str, arm: str, count: int, size: int = SIZE, groups: int = 2, flat: bool = False
) -> None:
    folder = results / "generations" / run / arm
    folder.mkdir(parents=True)
    images = []
    for n in range(count):
        key = f"secretkey/{n:04d}"
        for group in range(groups):
            file = f"{hashlib.sha256(key.encode()).hexdigest()[:16]}-{group}.png"
            seed = int(digest(run, arm, n, group)[:8], 16)
            (folder / file).write_bytes(png(seed, size, flat, parameters=f"{run} {arm}"))
            images.append({"file": file, "key": key, "text": "t", "map_key": key, "seed": group, "group": group})
    manifest = {"fingerprint": digest(run, arm), "run": run, "dataset": "tiny", "arm": arm, "images": images}
    write_json(folder / "manifest.json", manifest)


@dataclass(frozen=True)
class World:
    root: Path
    config: Make

    @property
    def study(self) -> Path:
        return self.config.out

    def make(self, **changes: Any) -> Path:
        """Make the study; changes are options of any group."""
        config = changed(self.config, **changes)
        make_study(config)
        return config.out


def small_world(root: Path) -> World:
    """A dataset of 18 samples, four sides with pictures of 14, and options of a small study."""
    write_dataset(root / "data" / "tiny", 18)
    for run, arm in ((RUN_A, "control"), (RUN_B, "control"), (RUN_A, "prior"), (RUN_A, "shuffled")):
        write_side(root / "results", run, arm, 14)
    config = Make(
        subjects=(RUN_A, RUN_B),
        dataset=root / "data" / "tiny",
        out=root / "studies" / "s",
        results=root / "results",
        items=Items(per_sheet=10, catch=4, repeats=0.1),
    )
    return World(root, config)


def changed(config: Make, **changes: Any) -> Make:
    """The config with options of any group replaced."""
    groups = {name: getattr(config, name) for name in ("items", "rules", "show")}
    for name in list(changes):
        for group, options in groups.items():
            if name in options.__dataclass_fields__ and name in changes:
                groups[group] = replace(options, **{name: changes.pop(name)})
    return replace(config, **groups, **changes)


def payload_of(page: Path) -> tuple[dict[str, Any], str]:
    """The JSON inside a sheet, and its text."""
    html = page.read_text(encoding="utf-8")
    text = html.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    return json.loads(text), text


Chooser = Callable[[str, dict[str, Any]], str]


def answer(page: Path, rater: str, chooser: Chooser) -> dict[str, Any]:
    """The document that ``rater`` exports; written from the format's description, not with the importer's code."""
    sheet, text = payload_of(page)
    rank = {
        t["id"]: hashlib.sha256("\0".join((sheet["seed"], rater, t["id"])).encode()).hexdigest()
        for t in sheet["trials"]
    }
    order = [t["id"] for t in sorted(sheet["trials"], key=lambda t: (t["block"], rank[t["id"]]))]
    trials = {t["id"]: t for t in sheet["trials"]}
    token = hashlib.sha256(text.encode()).hexdigest()
    payload = {
        "study": sheet["study"],
        "sheet": sheet["sheet"],
        "token": token,
        "seed": sheet["seed"],
        "rater": rater,
        "started": "2026-01-01T00:00:00.000Z",
        "finished": "2026-01-01T00:10:00.000Z",
        "answers": [
            with_seal(
                token,
                rater,
                {
                    "trial": trial,
                    "choice": chooser(trial, trials[trial]),
                    "response_ms": 900 + n,
                    "hidden_ms": 0,
                    "views": 1,
                    "window": [1200, 900],
                },
            )
            for n, trial in enumerate(order)
        ],
    }
    return sealed(payload)


def with_seal(token: str, rater: str, answer: dict[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in answer.items() if name != "seal"}
    mark = hashlib.sha256("\0".join((token, rater, canonical(plain))).encode(errors="replace")).hexdigest()[:16]
    return {**plain, "seal": mark}


def sealed(payload: dict[str, Any]) -> dict[str, Any]:
    """The document of a payload, with both kinds of seal."""
    answers = [with_seal(payload["token"], str(payload["rater"]), a) for a in payload["answers"]]
    payload = {**payload, "answers": answers}
    mark = hashlib.sha256((payload["token"] + "\0" + canonical(payload)).encode(errors="replace")).hexdigest()
    return {"format": "picture-answers", "version": 2, "payload": payload, "seal": mark}


def prefer(study: Path, wish: Callable[[dict[str, Any]], str]) -> Chooser:
    """A rater who knows the key: ``wish`` maps a trial of key.json to ``a``, ``b``, ``tie`` or ``unseen``."""
    trials = {
        t: entry
        for s in json.loads((study / "key.json").read_text())["sheets"].values()
        for t, entry in s["trials"].items()
    }

    def choose(trial: str, _: dict[str, Any]) -> str:
        entry = trials[trial]
        if entry["expected"]:
            return str(entry["expected"])
        side, shown = wish(entry), entry["shown"]
        return ("left", "right")[shown.index(side)] if side in shown else side

    return choose
