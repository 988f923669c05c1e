"""Pixels of maps that come with a source: what shows through alpha, more than 8 bits, near and far."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from photos import clean_photos
from PIL import Image

from pipeline.build.run import build
from pipeline.config import DatasetConfig
from pipeline.contract.dataset import Triplets
from pipeline.contract.errors import CnlabError
from pipeline.contract.pictures import decode_image
from pipeline.sources import Rejected, open_source
from pipeline.sources.columns import ReadConfig
from pipeline.sources.deep import scaled

SIDE = 80


def load(tmp_path: Path, made: Image.Image, name: str = "depth", suffix: str = "png", **read: object) -> np.ndarray:
    """The map as the source gives it, of one channel."""
    (tmp_path / "maps" / name).mkdir(parents=True, exist_ok=True)
    Image.fromarray(clean_photos(1, SIDE)[0]).save(tmp_path / "a.png")
    made.save(tmp_path / "maps" / name / f"a.{suffix}")
    source = open_source(f"folder:{tmp_path}", 1, SIDE, None, ReadConfig(**read))  # type: ignore[arg-type]
    return source.load("a.png").maps[name][..., 0]


def ramp(low: float, high: float, kind: type = np.uint16) -> np.ndarray:
    return np.tile(np.linspace(low, high, SIDE), (SIDE, 1)).astype(kind)


def test_what_is_transparent_in_a_map_is_black(tmp_path: Path) -> None:
    lines = np.zeros((SIDE, SIDE), np.uint8)
    lines[20:24] = 255
    white_lines = np.dstack([np.full((SIDE, SIDE, 3), 255, np.uint8), lines])
    got = load(tmp_path, Image.fromarray(white_lines), "canny")
    assert np.array_equal(got, lines)
    orange = np.zeros((SIDE, SIDE, 4), np.uint8)
    orange[20:24] = (255, 60, 0, 255)
    source = open_source(f"folder:{tmp_path}", 1, SIDE)
    Image.fromarray(orange).save(tmp_path / "maps" / "canny" / "a.png")
    raw = source.load("a.png")
    assert raw.maps["canny"][0, 0].tolist() == [0, 0, 0]
    assert raw.maps["canny"][21, 0].tolist() == [255, 60, 0]
    assert raw.map_params["canny"] == {"alpha": "black"}
    assert raw.image[0, 0].tolist() != [0, 0, 0]


@pytest.mark.parametrize(
    ("scale", "left", "middle", "right"), [("range", 0, 128, 255), ("percentile", 0, 128, 255), ("full", 2, 5, 9)]
)
def test_sixteen_bits_are_scaled_by_the_rule(tmp_path: Path, scale: str, left: int, middle: int, right: int) -> None:
    got = load(tmp_path, Image.fromarray(ramp(500, 2300)), map_scale=scale)
    assert [int(v) for v in got[0, [0, SIDE // 2, -1]]] == pytest.approx([left, middle, right], abs=3)


def test_inverse_of_distances_has_near_white_and_what_was_not_measured_black(tmp_path: Path) -> None:
    distances = ramp(500, 5000)
    distances[:10] = 0
    got = load(tmp_path, Image.fromarray(distances), map_scale="inverse")
    assert (got[:10] == 0).all()
    assert got[20, 0] == 255
    assert got[20, -1] == 0
    expected = (1 / distances[20, 40] - 1 / 5000) / (1 / 500 - 1 / 5000)
    assert got[20, 40] == round(255 * float(expected))


def test_near_black_is_turned_over_in_8_and_16_bits_and_named_depth_alone(tmp_path: Path) -> None:
    eight = load(tmp_path, Image.fromarray(ramp(0, 255, np.uint8)), depth_near="black")
    assert (eight[0, 0], eight[0, -1]) == (255, 0)
    deep = ramp(500, 5000)
    deep[:10] = 0
    sixteen = load(tmp_path, Image.fromarray(deep), depth_near="black")
    assert (sixteen[20, 0], sixteen[20, -1]) == (255, 0)
    assert (sixteen[:10] == 0).all()
    grey = load(tmp_path, Image.fromarray(ramp(0, 255, np.uint8)), "grey", depth_near="black")
    assert (grey[0, 0], grey[0, -1]) == (0, 255)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_floats_and_32_bits_are_read_as_maps(tmp_path: Path, kind: type) -> None:
    values = ramp(1, 9, kind)
    if kind is np.float32:
        values[0, 0] = np.nan
    got = load(tmp_path, Image.fromarray(values), suffix="tiff")
    assert got[1, -1] == 255
    assert got[0, 0] == 0


def test_percentiles_ignore_a_few_wild_values_and_an_empty_map_is_black() -> None:
    values = ramp(100, 200)
    values[0, 0] = 60000
    levels, params = scaled(values, "percentile")
    assert params["high"] < 201
    assert np.ptp(levels[5]) > 250
    assert not scaled(np.zeros((4, 4), np.uint16), "range")[0].any()


def shapes(folder: Path, count: int, condition: str, depth: np.ndarray | None = None) -> None:
    (folder / "maps" / condition).mkdir(parents=True)
    for i, photo in enumerate(clean_photos(count, SIDE)):
        Image.fromarray(photo).save(folder / f"a picture {i}.png")
        grey = photo.mean(-1)
        made = (400 + grey * 300 / 255).astype(np.uint16) if depth is None else depth
        Image.fromarray(made).save(folder / "maps" / condition / f"a picture {i}.png")


def options(folder: Path, **more: object) -> DatasetConfig:
    return DatasetConfig(
        **{
            "source": f"folder:{folder}", "size": "50", "eval_share": 0.3, "image_size": 64, "workers": 0,
            "out": folder.parent, "name": "set", "condition": ("depth",), "duplicates": "off", **more,
        }
    )  # type: ignore[arg-type] # fmt: skip


def test_a_build_keeps_the_levels_of_depth_in_millimetres_and_records_the_rule(tmp_path: Path) -> None:
    shapes(tmp_path / "photos", 12, "depth")
    config = options(tmp_path / "photos", screen="off")
    header = build(config)
    row = Triplets(config.folder).rows("train", ["depth", "depth_params"], 0, 1).to_pylist()[0]
    assert len(np.unique(decode_image(row["depth"]["bytes"]))) > 100
    params = json.loads(row["depth_params"])
    assert params["given"]
    assert params["scale"] == "range"
    assert 400 <= params["low"] < params["high"] <= 700
    assert any("near is taken to be white" in note for note in header["source_notes"])
    with pytest.raises(CnlabError, match=r"rules\.read\.map_scale"):
        build(options(tmp_path / "photos", screen="off", read=ReadConfig(map_scale="inverse")))


def test_a_map_with_next_to_no_range_has_its_own_reason(tmp_path: Path) -> None:
    shapes(tmp_path / "photos", 10, "depth", ramp(100, 104, np.uint8))
    with pytest.raises(CnlabError, match=r"map_flat 8.*--threshold min_map_range 0 takes them"):
        build(options(tmp_path / "photos"))


@pytest.mark.parametrize("name", ["image", "text", "KEY", "captions", "width", "canny_params", "faults", "a b", "x.y"])
def test_names_of_columns_are_no_conditions(tmp_path: Path, name: str) -> None:
    with pytest.raises(CnlabError, match=f"condition '{name}'.*--map-column NAME=COLUMN"):
        options(tmp_path, condition=(name,)).resolve()


def test_the_other_name_that_is_advised_works(tmp_path: Path) -> None:
    shapes(tmp_path / "photos", 12, "image")
    read = ReadConfig(map_column=("distance=maps/image/",))
    config = options(tmp_path / "photos", condition=("distance",), screen="off", read=read)
    build(config)
    row = pq.read_table(next(config.folder.glob("train-*.parquet"))).to_pylist()[0]
    assert row["image"]["bytes"] != row["distance"]["bytes"] == row["conditioning_image"]["bytes"]
    picture, depth = decode_image(row["image"]["bytes"]), decode_image(row["distance"]["bytes"])
    assert np.corrcoef(picture.mean(-1).ravel(), depth[..., 0].ravel())[0, 1] > 0.95


def test_a_missing_map_is_named(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="map_missing"):
        load(tmp_path, Image.fromarray(ramp(1, 9, np.float32)), suffix="tiff", map_scale="full")
