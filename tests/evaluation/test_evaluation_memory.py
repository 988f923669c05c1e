"""Scoring reads pictures a part at a time: what it holds does not grow with their number."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from evaluation.judges.features import Extractor
from evaluation.samples import EvalSet
from evaluation.scores import Judges, PictureSet, ScoreStore
from evaluation.subjects import Subject
from pipeline.build.shards import write_shard
from pipeline.contract.files import write_json
from pipeline.contract.identity import sha256_file
from pipeline.contract.pictures import encode_png

SIDE = 192
ONE = SIDE * SIDE * 3  # bytes of a picture


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> Path:
    """256 held-out samples in one shard."""
    folder = tmp_path_factory.mktemp("data") / "many"
    flat = np.full((SIDE, SIDE, 3), 90, np.uint8)
    flat[40:90, 40:90] = 200
    image, edges = encode_png(flat), encode_png(np.zeros((SIDE, SIDE), np.uint8), binary=True)
    row = pq.read_table(dataset / "eval-00000.parquet").to_pylist()[0] | {
        "image": {"bytes": image, "path": None},
        "width": SIDE,
        "height": SIDE,
    }
    row |= {name: {"bytes": edges, "path": None} for name in ("canny", "conditioning_image")}
    row["canny_params"] = json.dumps({"low": 60, "high": 150})
    rows = [row | {"key": f"scene-{i}", "rank": i} for i in range(256)]
    write_shard(folder / "eval-00000.parquet", rows, ("canny",), ("mark", "eval-00000.parquet"), [])
    shard = {"file": "eval-00000.parquet", "rows": 256, "split": "eval"}
    header = {
        "name": "many", "fingerprint": "m", "conditions": ["canny"], "image_size": SIDE,
        "counts": {"train": 0, "eval": 256}, "shards": [shard | {"sha256": sha256_file(folder / shard["file"])}],  # type: ignore[operator]
    }  # fmt: skip
    write_json(folder / "dataset.json", header)
    return folder


def peak(dataset: Path, results: Path, clip: Path, count: int) -> int:
    """Largest number of bytes that Python and numpy held while ``count`` pictures were scored."""
    samples = EvalSet(dataset, ["canny"], count)

    def run(images: torch.Tensor) -> torch.Tensor:
        return images.float().mean((2, 3))

    store = ScoreStore(results, Judges(str(clip), Extractor("toy", ("fd_toy", "kid_toy"), 3, run)))
    pictures = PictureSet(
        Subject("control", "demo"), samples, np.arange(count), (0,), "flat", {}, lambda own, group: samples.images(own)
    )
    tracemalloc.start()
    store.scores(pictures)
    store.features(pictures, 0)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


@pytest.mark.proof
def test_memory_is_flat_in_the_number_of_pictures(many: Path, clip_folder: Path, tmp_path: Path) -> None:
    few = peak(many, tmp_path / "few", clip_folder, 64)
    lots = peak(many, tmp_path / "lots", clip_folder, 256)
    assert few > 32 * ONE  # a part is held
    assert lots - few < 16 * ONE  # the other 192 pictures are not
