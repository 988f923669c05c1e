"""The table of reasons in docs/formats.md is the code's own list, and shards' schema is the one of `datasets`."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from datasets import Features, Image, Value

from pipeline.contract.schema import FIGURES, shard_schema
from pipeline.screen.duplicates import Twin, reason_of
from pipeline.screen.limits import DEFAULT

ROOT = Path(__file__).resolve().parents[3]


def reasons_in_code() -> set[str]:
    """First strings of ``Rejected(...)`` and of faults, which become one; and what copies are called."""
    found = {reason_of(Twin("k", bits, place))[0] for bits in (-1, 3) for place in ("train", "outside")}
    found |= {reason_of(Twin("k", 90, "train", how))[0] for how in ("mirrored", "cropped")}
    for path in (ROOT / "pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            first: ast.expr | None = None
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Rejected" and node.args:
                first = node.args[0]
            elif isinstance(node, ast.keyword) and node.arg == "fault" and isinstance(node.value, ast.Tuple):
                first = node.value.elts[0]
            elif isinstance(node, ast.Assign) and getattr(node.targets[0], "attr", "") == "fault":
                first = node.value.elts[0] if isinstance(node.value, ast.Tuple) else None
            if isinstance(first, ast.Constant):
                found.add(str(first.value))
    return found


def table() -> list[list[str]]:
    text = (ROOT / "docs/formats.md").read_text().split("Reasons, all of them")[1].split("## Run")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_every_reason_is_documented_and_no_other() -> None:
    documented = [name for row in table() for name in re.findall(r"`(\w+)`", row[1])]
    assert len(documented) == len(set(documented))
    assert set(documented) == reasons_in_code()
    assert len(documented) >= 30


def test_thresholds_in_the_table_are_all_there_are() -> None:
    named = {name for row in table()[2:] for name in row[3].split(", ") if name}
    assert named == set(DEFAULT)


@pytest.mark.parametrize("conditions", [("canny",), ("canny", "softedge", "depth")])
def test_schema_is_the_one_of_datasets(conditions: tuple[str, ...]) -> None:
    kinds: dict[str, object] = {"image": Image(), "text": Value("string"), "conditioning_image": Image()}
    kinds |= {name: Image() for name in conditions}
    kinds |= {name: Value("string") for name in ("key", "split", "source", "caption_source", "captions")}
    kinds |= {"rank": Value("int64"), "width": Value("int32"), "height": Value("int32")}
    kinds |= {name: Value("float32") for name in (*FIGURES, "clip_match", "nsfw")}
    kinds |= {name: Value("string") for name in ("facts", "sha256", "phash")}
    kinds |= {f"{name}_params": Value("string") for name in conditions}
    assert shard_schema(conditions).equals(Features(kinds).arrow_schema, check_metadata=True)
