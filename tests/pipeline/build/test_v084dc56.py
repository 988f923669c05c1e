"""Tabletop's datasets of commit 084dc56 are taken, continued and repaired under their fingerprint, byte for byte."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.build.run import build, source_identity
from pipeline.build.verify import verify
from pipeline.config import DatasetConfig, VerifyConfig
from pipeline.contract.dataset import CLAIM, HEADER
from pipeline.contract.errors import CnlabError
from pipeline.contract.identity import sha256_file

FIXTURE = Path(__file__).parents[2] / "fixtures" / "v084dc56" / "data" / "old"
OPTIONS = {
    "size": "12", "eval_size": 6, "seed": 5, "image_size": 64, "block": 8, "condition": ("canny", "softedge"),
    "workers": 0, "name": "old",
}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (OPTIONS, "5053ae21137e"),
        ({}, "c17156c4fce0"),
        ({"duplicates": "on"}, "e0cd8a8506a3"),
        ({"screen": "off"}, "41466338a27e"),
        ({"threshold": {"min_contrast": 0.1}}, "f980a5f9c1b0"),
    ],
)
def test_fingerprints_are_those_that_084dc56_computed(options: dict[str, object], expected: str) -> None:
    plan = DatasetConfig(**options).resolve()  # type: ignore[arg-type]
    assert source_identity(plan)[1][:12] == expected


def test_rules_are_part_of_the_identity_of_every_other_source_and_younger_thresholds_of_any_that_asks() -> None:
    assert "rules" in source_identity(DatasetConfig(source="fill50k").resolve())[0]
    assert "rules" not in source_identity(DatasetConfig().resolve())[0]
    asked = DatasetConfig(threshold={"mirror_bits": 12}, duplicates="on").resolve()
    assert source_identity(asked)[0]["limits"]["mirror_bits"] == 12
    assert source_identity(asked)[1] != source_identity(DatasetConfig(duplicates="on").resolve())[1]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FIXTURE, tmp_path / "old"))


def shards(folder: Path) -> dict[str, str]:
    return {p.name: sha256_file(p) for pattern in ("train-*", "eval-*") for p in folder.glob(pattern)}


def test_a_finished_set_is_complete_for_the_same_options(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = shards(old)
    header = build(DatasetConfig(out=old.parent, **OPTIONS))  # type: ignore[arg-type]
    assert "is complete" in capsys.readouterr().out
    assert header == json.loads((FIXTURE / HEADER).read_text())
    assert shards(old) == before
    with pytest.raises(CnlabError, match="safe_rate"):
        build(DatasetConfig(out=old.parent, safe_rate=0.5, **OPTIONS))  # type: ignore[arg-type]


def test_an_unfinished_set_is_continued_to_the_same_bytes(old: Path) -> None:
    (old / HEADER).unlink()
    (old / "train-00001.parquet").unlink()
    ledger = old / ".shards.jsonl"
    ledger.write_text("\n".join(line for line in ledger.read_text().splitlines() if "train-00001" not in line))
    header = build(DatasetConfig(out=old.parent, **OPTIONS))  # type: ignore[arg-type]
    before = json.loads((FIXTURE / HEADER).read_text())
    assert header["fingerprint"] == before["fingerprint"]
    assert header["shards"] == before["shards"]
    assert shards(old) == shards(FIXTURE)


def test_a_damaged_set_is_repaired_to_the_same_bytes(old: Path) -> None:
    assert (old / CLAIM).is_file()
    (old / "train-00000.parquet").write_bytes(b"damaged")
    verify(VerifyConfig(old, repair=True))
    assert shards(old) == shards(FIXTURE)
