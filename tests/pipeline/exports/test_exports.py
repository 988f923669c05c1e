"""Exports are read by the readers that they are meant for, or compared with the layout that the project documents."""

from __future__ import annotations

import io
import json
import os
import signal
import tarfile
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.build.run import build
from pipeline.config import DatasetConfig, ExportConfig
from pipeline.contract.errors import CnlabError
from pipeline.exports import LAYOUTS
from pipeline.exports.run import export
from pipeline.report.croissant import write_croissant

TRAIN, EVAL = 50, 8


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exports")
    config = DatasetConfig(
        size=str(TRAIN), eval_size=EVAL, image_size=64, block=16, workers=0, out=out, name="scenes",
        condition=("canny", "depth"),
    )  # fmt: skip
    build(config)
    return out / "scenes"


def rows_of(folder: Path, split: str) -> list[dict[str, Any]]:
    files = sorted(folder.glob(f"{split}-*.parquet"))
    return list(pa.concat_tables(pq.read_table(f) for f in files).to_pylist())


def pixels(picture: bytes | Path | Image.Image) -> np.ndarray:
    opened = (
        picture
        if isinstance(picture, Image.Image)
        else Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture)
    )
    return np.asarray(opened.convert("RGB"))


def assert_same(found: list[tuple[Any, Any, str]], rows: list[dict[str, Any]], condition: str) -> None:
    """(picture, map, text) of each sample, in order, against the dataset's rows."""
    assert len(found) == len(rows)
    for (image, drawn, text), row in zip(found, rows, strict=True):
        assert np.array_equal(pixels(image), pixels(row["image"]["bytes"]))
        assert np.array_equal(pixels(drawn), pixels(row[condition]["bytes"]))
        assert text == row["text"]


def test_imagefolder_is_read_by_datasets(scenes: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    out = export(ExportConfig(scenes, "imagefolder", tmp_path / "out"))
    for source in ({"path": str(out)}, {"path": "imagefolder", "data_dir": str(out)}):
        splits = load_dataset(**source, cache_dir=str(tmp_path / f"cache-{len(source)}"))
        for split, name in (("train", "train"), ("eval", "eval" if len(source) == 1 else "test")):
            found = [(r["image"], r["conditioning_image"], r["text"]) for r in splits[name]]
            assert_same(found, rows_of(scenes, split), "canny")
    assert splits["train"][0]["conditioning_image"].mode == "RGB"  # a one-bit picture would be read as booleans


def test_webdataset_is_read_by_datasets_and_by_our_own_source(scenes: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    out = export(ExportConfig(scenes, "webdataset", tmp_path / "out"))
    splits = load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    for split in ("train", "eval"):
        for condition in ("canny", "depth"):
            found = [(r["png"], r[f"{condition}.png"], r["txt"]) for r in splits[split]]
            assert_same(found, rows_of(scenes, split), condition)
    with tarfile.open(out / "train-00000.tar") as tar:
        assert tar.getnames()[:5] == [f"00000000{s}" for s in (".png", ".txt", ".json", ".canny.png", ".depth.png")]
    config = DatasetConfig(
        source=f"webdataset:{out}/train-*.tar", size="40", eval_size=5, eval_share=0.15, image_size=64, workers=0,
        out=tmp_path, name="again", condition=("depth",), screen="render", image_format="png",
    )  # fmt: skip
    build(config)
    before = {row["text"]: row for row in rows_of(scenes, "train")}
    for row in rows_of(tmp_path / "again", "train"):
        assert np.array_equal(pixels(row["depth"]["bytes"]), pixels(before[row["text"]]["depth"]["bytes"]))


@pytest.mark.parametrize("layout", ["kohya", "simpletuner"])
def test_paired_folders_hold_each_sample_once_under_one_base_name(layout: Any, scenes: Path, tmp_path: Path) -> None:
    out = export(ExportConfig(scenes, layout, tmp_path / "a b'[1]", condition="depth", size="37"))
    for split, count in (("train", 37), ("eval", EVAL)):
        folder = out / split
        names = [p.stem for p in sorted((folder / "image").glob("*.png"))]
        assert names == [p.stem for p in sorted((folder / "conditioning").iterdir())]
        assert names == [p.stem for p in sorted((folder / "image").glob("*.txt"))]
        found = [
            (
                folder / "image" / f"{n}.png",
                folder / "conditioning" / f"{n}.png",
                (folder / "image" / f"{n}.txt").read_text(),
            )
            for n in names
        ]
        assert_same(found, rows_of(scenes, split)[:count], "depth")


#: What sd-scripts' docs/config_README-en.md lists, of each section; anything else is refused by its schema.
KOHYA_DATASET = {
    "batch_size", "bucket_no_upscale", "bucket_reso_steps", "enable_bucket", "max_bucket_reso", "min_bucket_reso",
    "resolution", "network_multiplier",
}  # fmt: skip
KOHYA_SUBSET = {
    "color_aug", "face_crop_aug_range", "flip_aug", "num_repeats", "random_crop", "shuffle_caption", "keep_tokens",
    "caption_prefix", "caption_suffix", "caption_extension", "cache_info",
}  # fmt: skip


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_kohya_config_names_the_documented_fields_and_no_others(scenes: Path, tmp_path: Path) -> None:
    out = export(ExportConfig(scenes, "kohya", tmp_path / "out"))
    config = tomllib.loads((out / "dataset.toml").read_text())
    assert config.keys() == {"general", "datasets"}
    (dataset,) = config["datasets"]
    (subset,) = dataset.pop("subsets")
    assert config["general"].keys() <= KOHYA_DATASET | KOHYA_SUBSET
    assert dataset.keys() <= KOHYA_DATASET | KOHYA_SUBSET
    assert subset.keys() <= KOHYA_SUBSET | {"image_dir", "conditioning_data_dir"}
    assert config["general"]["caption_extension"] == ".txt"
    assert dataset["resolution"] == 64
    images = sorted(Path(subset["image_dir"]).glob("*.png"))
    assert [p.stem for p in images] == [p.stem for p in sorted(Path(subset["conditioning_data_dir"]).iterdir())]
    assert len(images) == TRAIN and all(size_of(p) == (64, 64) for p in images)


#: Fields of its documentation/DATALOADER.md that a local backend may have, by dataset_type.
SIMPLETUNER = {
    "text_embeds": {"id", "dataset_type", "default", "type", "cache_dir", "write_batch_size"},
    "image": {
        "id", "dataset_type", "type", "instance_data_dir", "conditioning_data", "caption_strategy", "cache_dir_vae",
        "metadata_backend", "resolution", "resolution_type", "minimum_image_size", "maximum_image_size",
        "target_downsample_size", "crop", "crop_aspect", "crop_style",
    },
}  # fmt: skip
SIMPLETUNER["conditioning"] = SIMPLETUNER["image"] - {"conditioning_data"} | {"conditioning_type"}


def test_simpletuner_config_pairs_two_backends_and_has_text_embeds(scenes: Path, tmp_path: Path) -> None:
    out = export(ExportConfig(scenes, "simpletuner", tmp_path / "out"))
    listed = json.loads((out / "multidatabackend.json").read_text())
    backends = {b["dataset_type"]: b for b in listed}
    assert len(listed) == 3 and len({b["id"] for b in listed}) == 3
    assert all(b.keys() <= SIMPLETUNER[kind] for kind, b in backends.items())
    assert backends["image"]["conditioning_data"] == backends["conditioning"]["id"]
    assert backends["conditioning"]["conditioning_type"] == "controlnet"
    assert backends["text_embeds"]["default"] is True
    for kind in ("image", "conditioning"):
        backend, folder = backends[kind], Path(backends[kind]["instance_data_dir"])
        assert folder.is_absolute()
        pictures = sorted(folder.glob("*.png"))
        assert len(pictures) == TRAIN
        assert backend["resolution_type"] == "pixel"  # of the shorter edge
        assert backend["minimum_image_size"] <= min(size_of(pictures[0])) == backend["resolution"]
    texts = [p.with_suffix(".txt") for p in sorted(Path(backends["image"]["instance_data_dir"]).glob("*.png"))]
    assert backends["image"]["caption_strategy"] == "textfile"  # beside the picture, one caption a line
    assert all(len(p.read_text().splitlines()) == 1 for p in texts)
    assert backends["conditioning"]["caption_strategy"] is None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_killed_exports_are_finished_by_the_same_command(layout: Any, scenes: Path, tmp_path: Path) -> None:
    whole = export(ExportConfig(scenes, layout, tmp_path / "whole" / "out"))
    out = tmp_path / "killed" / "out"
    if (pid := os.fork()) == 0:
        export(ExportConfig(scenes, layout, out))
        os._exit(0)
    until = time.monotonic() + 60
    while len(list(out.rglob("*.*"))) < 12 and not list(out.glob("*.tar")) and time.monotonic() < until:
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert not (out / "export.json").exists()
    export(ExportConfig(scenes, layout, out))
    files = {p.relative_to(whole): p for p in whole.rglob("*") if p.is_file() and not p.name.startswith(".")}
    assert files.keys() == {p.relative_to(out) for p in out.rglob("*") if p.is_file() and not p.name.startswith(".")}
    configs = {"dataset.toml", "multidatabackend.json"}  # these name the folder
    assert all((out / name).read_bytes() == p.read_bytes() for name, p in files.items() if name.name not in configs)


def test_wrong_exports_are_one_line_and_foreign_folders_are_kept(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    for config, message in (
        (ExportConfig(scenes, "kohya", tmp_path / "mine"), "thesis.tex"),
        (ExportConfig(scenes, "kohya", tmp_path / "o", condition="pose"), "there are canny, depth"),
        (ExportConfig(scenes, "kohya", tmp_path / "o", size="5k"), "has 50 training samples"),
        (ExportConfig(tmp_path / "nowhere", "kohya", tmp_path / "o"), "not a finished dataset"),
    ):
        with pytest.raises(CnlabError, match=message):
            export(config)
    export(ExportConfig(scenes, "kohya", tmp_path / "o"))
    with pytest.raises(CnlabError):
        export(ExportConfig(scenes, "simpletuner", tmp_path / "o"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of rdflib in its own callers
def test_croissant_is_valid_and_its_records_are_the_rows(scenes: Path) -> None:
    mlc = pytest.importorskip("mlcroissant")
    write_croissant(scenes, json.loads((scenes / "dataset.json").read_text()))
    dataset = mlc.Dataset(jsonld=str(scenes / "croissant.json"))
    assert not dataset.metadata.ctx.issues.errors
    for split in ("train", "eval"):
        rows = {row["key"]: row for row in rows_of(scenes, split)}
        found = list(dataset.records(split))
        assert len(found) == len(rows)
        for record in found[:5]:
            row = rows[record[f"{split}/key"].decode()]
            assert record[f"{split}/text"].decode() == row["text"]
            assert np.array_equal(pixels(record[f"{split}/canny"]), pixels(row["canny"]["bytes"]))
