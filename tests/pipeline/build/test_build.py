from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from photos import clean_photos
from PIL import Image

from pipeline.build.blocks import Block, build_block
from pipeline.build.run import build
from pipeline.build.sample import SampleBuilder
from pipeline.conditions import get_condition
from pipeline.config import DatasetConfig
from pipeline.contract.dataset import Triplets
from pipeline.contract.errors import CnlabError
from pipeline.contract.identity import fingerprint, sha256_file
from pipeline.contract.pictures import decode_image

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:.*port.*already in use:UserWarning")


def config(out: Path, **options: object) -> DatasetConfig:
    return DatasetConfig(
        **{"size": "40", "eval_size": 12, "block": 16, "image_size": 64, "out": out, "workers": 0, **options}
    )  # type: ignore[arg-type]


def sums(folder: Path) -> dict[str, str]:
    return {p.name: sha256_file(p) for p in sorted(folder.glob("*.parquet"))}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built with one worker."""
    out = tmp_path_factory.mktemp("clean")
    made = config(out, workers=1)
    build(made)
    return made.folder


def test_one_and_two_workers_give_the_same_bytes(clean: Path, tmp_path: Path) -> None:
    two = config(tmp_path, workers=2)
    build(two)
    assert sums(two.folder) == sums(clean)
    assert {p.name for p in two.folder.glob("[!.]*")} == {
        "dataset.json", "README.md", "croissant.json", "contact.png", "rejects.parquet", "rejects.csv", "rejects.html",
        "eval-00000.parquet",
        "train-00000.parquet", "train-00001.parquet", "train-00002.parquet",
    }  # fmt: skip


def test_the_header_names_the_evaluation_split_by_its_files(clean: Path) -> None:
    header = json.loads((clean / "dataset.json").read_text())
    assert header["eval_fingerprint"] == fingerprint([sha256_file(p) for p in sorted(clean.glob("eval-*.parquet"))])


def test_card_names_the_licence_of_our_own_renders_and_the_thresholds_that_are_off(clean: Path) -> None:
    from huggingface_hub import DatasetCard

    card = DatasetCard.load(clean / "README.md")
    assert card.data.license == "apache-2.0"
    assert "max_blur off, max_border off" in card.text
    assert "min_map_share 0.001" in card.text
    photographs = DatasetConfig(source="folder:photos", out=clean.parent)
    assert photographs.resolve().license == "unknown"
    assert DatasetConfig(license="cc0-1.0", out=clean.parent).resolve().license == "cc0-1.0"


def test_datasets_streams_it(clean: Path) -> None:
    from datasets import load_dataset

    streamed = load_dataset(str(clean), split="train", streaming=True)
    rows = list(streamed.take(3))
    assert [row["key"] for row in rows] == Triplets(clean).table("train", ["key"], 3)["key"].to_pylist()
    assert rows[0]["image"].size == rows[0]["conditioning_image"].size == (64, 64)
    assert rows[0]["text"]


def test_loads_with_datasets_and_every_map_can_be_made_again(clean: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    loaded = load_dataset(str(clean), cache_dir=str(tmp_path))
    assert {k: v.num_rows for k, v in loaded.items()} == {"train": 40, "eval": 12}
    row = loaded["train"][3]
    assert row["image"].size == (64, 64)
    edges = get_condition("canny").extract(np.array(row["image"]), json.loads(row["canny_params"]))
    assert np.array_equal(np.array(row["canny"].convert("L")), edges)
    assert np.array_equal(np.array(row["conditioning_image"].convert("L")), edges)
    assert loaded["train"]["rank"] == sorted(loaded["train"]["rank"])


def test_again_does_nothing_and_a_foreign_config_is_refused(clean: Path) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in clean.iterdir()}
    build(config(clean.parent, name=clean.name))
    assert {p.name: p.stat().st_mtime_ns for p in clean.iterdir()} == before
    with pytest.raises(CnlabError, match="another configuration"):
        build(config(clean.parent, name=clean.name, seed=2))


def test_smaller_sizes_are_prefixes_of_larger_ones(clean: Path, tmp_path: Path) -> None:
    small = config(tmp_path, size="24")
    build(small)
    keys = Triplets(clean).table("train", ["key"])["key"].to_pylist()
    assert Triplets(small.folder).table("train", ["key"])["key"].to_pylist() == keys[:24]
    assert Triplets(small.folder).table("eval", ["key"]) == Triplets(clean).table("eval", ["key"])


def test_folder_with_faults_fills_up_from_later_candidates(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i, photo in enumerate(clean_photos(60, 160)):
        Image.fromarray(photo).save(photos / f"quiet photograph {i}.jpg", quality=90)
    for i in range(8):
        (photos / f"broken {i}.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
        Image.new("RGB", (100, 100), "grey").save(photos / f"flat {i}.png")
    calm = {"max_blur": 0.8}  # at 64 pixels a calm photograph looks blurred
    made = config(tmp_path, source=f"folder:{photos}", size="30", eval_size=4, eval_share=0.2, threshold=calm)
    header = build(made)
    assert header["counts"]["train"] == 30
    assert header["rejects"].keys() == {"decode", "uniform"}
    ranks = Triplets(made.folder).table("train", ["rank"])["rank"].to_pylist()
    assert ranks == sorted(set(ranks))
    rejected = pq.read_table(made.folder / "rejects.parquet").to_pylist()
    assert not {r["rank"] for r in rejected if r["split"] == "train"} & set(ranks)
    assert sorted(ranks + [r["rank"] for r in rejected if r["split"] == "train"]) == list(range(max(ranks) + 1))


def test_an_empty_result_is_an_error_not_a_dataset(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (100, 100), "grey").save(photos / "flat.png")
    made = config(tmp_path, source=f"folder:{photos}")
    with pytest.raises(CnlabError, match="0 train and 0 eval"):
        build(made)
    assert not (made.folder / "dataset.json").exists()
    with pytest.raises(CnlabError, match="not a finished dataset"):
        Triplets(made.folder)


def test_given_maps_become_conditions(tmp_path: Path) -> None:
    from pipeline.sources import open_source

    both = config(tmp_path, condition=("depth", "canny"))
    row = SampleBuilder(both.resolve()).row(open_source("tabletop", 1, 64).load("tabletop-1-000003"))
    assert row["conditioning_image"] == row["depth"]
    assert json.loads(row["depth_params"]) == {"given": True}
    assert decode_image(row["depth"]["bytes"]).shape == (64, 64, 3)


def test_a_block_is_made_again_unless_it_is_as_the_ledger_says(tmp_path: Path) -> None:
    made = config(tmp_path).resolve()
    block = Block("train", 0, 0, ("tabletop-1-000001", "tabletop-1-000002"))
    _, shard, signatures, copies = build_block(block, made, "id")
    assert (shard.rows, signatures, copies) == (2, [], set())
    path = made.folder / block.file
    written = path.stat().st_mtime_ns
    assert build_block(block, made, "id", shard.sha256)[1] == shard
    assert path.stat().st_mtime_ns == written
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert build_block(block, made, "id", shard.sha256)[1] == shard
    assert sha256_file(path) == shard.sha256


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--size", "many"], "not a positive number"),
        (["--source", "folder:nowhere"], "not a directory"),
        (["--condition", "sketchy"], "unknown condition"),
        (["--seed", "770001"], "kept for the prior"),
        pytest.param(["--scheduler", "tcp://127.0.0.1:1"], "no Dask scheduler answers", marks=pytest.mark.slow),
    ],
)
def test_command_line_says_one_clear_line(options: list[str], said: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline.cli", "build", "--out", str(tmp_path), *options]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 2
    last = found.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert said in last
    assert not list(tmp_path.rglob("dataset.json"))
