"""Names made from any source, the same by the stages and by the Makefile, and taken by all that follow."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from evaluation.subjects import Subject
from pipeline.config import DatasetConfig
from pipeline.contract.names import dataset_name, last_part, plain_name

ROOT = Path(__file__).resolve().parents[3]
SOURCES = {
    "tabletop": "tabletop", "folder:photos": "photos", "folder:/a/photos/": "photos", "folder:/a/b c/": "b-c",
    "folder:/a/Bob's pics [1]": "Bob-s-pics-1", "folder:/a/café": "cafe-", "folder:/a/写真": "unnamed-",
    "folder:/a/$(x) `y` \"z\"": "x-y-z", "folder:/a/.hidden": "hidden", "folder:/": "folder",
    "webdataset:shards/{00000..00041}.tar": "shards", "webdataset:s/cc3m-{00..10}.tar": "cc3m",
    "webdataset:s/*.tar": "s",
    "webdataset:s3://bucket/laion/{0..9}.tar": "laion", "parquet:d/*.parquet": "d", "parquet:d/one.parquet": "one",
    "hub:anna/photos": "anna-photos", "hub:bert/photos": "bert-photos",
    "hub:bert/photos:train:50k": "bert-photos-train-50k",
    "hub:/data/set/": "set",
}  # fmt: skip


@pytest.mark.parametrize("source", SOURCES)
def test_names_hold_only_what_every_stage_takes(source: str) -> None:
    name = dataset_name(source, ("canny", "my-depth"), "2000", 1)
    assert name.startswith(SOURCES[source])
    assert name.endswith("-canny-my-depth-2k-s1")
    assert re.fullmatch(r"[A-Za-z0-9._+-]+", name)
    assert DatasetConfig(source=source, condition=("canny", "my-depth")).folder == Path("data") / name
    run = f"{name}-sd-1.5-2ksteps-s1"
    assert str(Subject.parse(f"{run}/prior")) == f"{run}/prior"


def test_names_that_lose_letters_stay_apart_and_long_ones_are_cut() -> None:
    assert plain_name("写真") != plain_name("音楽")
    assert plain_name("café") == "cafe"
    assert len(plain_name("x" * 400)) < 100
    assert plain_name("x" * 400) != plain_name("x" * 401)
    assert last_part("a/b///") == "b"
    assert dataset_name("folder:.", ("canny",), "2k", 1).startswith(plain_name(Path.cwd().name))


@pytest.mark.skipif(not shutil.which("make"), reason="no make")
@pytest.mark.parametrize(
    "source", ["tabletop", "folder:/a/Bob's pics [1]/", "hub:anna/photos", "webdataset:s/{00..10}.tar"]
)
def test_the_makefile_makes_the_same_names(source: str) -> None:
    options = [
        f"SOURCE={source}",
        "CONDITION=canny softedge",
        "MODEL=owner/sd-1.5/",
        "STEPS=10",
        f"PYTHON={sys.executable}",
    ]
    shown = subprocess.run(
        ["make", "-n", "-o", ".venv/.ready", "dataset", "train", "eval", "study", *options],
        capture_output=True, text=True, cwd=ROOT, check=True,
    ).stdout  # fmt: skip
    name = dataset_name(source, ("canny", "softedge"), "2k", 1)
    run = f"{name}-sd-1.5-10steps"
    for part in (
        f"--name '{name}'",
        f"--dataset 'data/{name}'",
        f"--name '{run}'",
        f"--run 'runs/{run}'",
        f"'{run}/prior'",
    ):
        assert part in shown
    quoted = source.replace("'", "'\\''")
    assert f"--source '{quoted}'" in shown
