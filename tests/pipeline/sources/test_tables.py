from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as Pillow

from pipeline.build.run import build
from pipeline.config import DamageConfig, DatasetConfig
from pipeline.contract.errors import CnlabError
from pipeline.sources import Rejected, open_source
from pipeline.variants.damage import damage


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pathlib import Path as P

    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", P(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_CACHE_HOME", P(tmp_path / "cache"))


def picture(value: int, size: tuple[int, int] = (80, 60)) -> bytes:
    out = io.BytesIO()
    Pillow.new("RGB", size, (value, value, value)).save(out, "PNG")
    return out.getvalue()


def table(n: int, **more: Any) -> dict[str, Any]:
    images = [{"bytes": picture(10 * i), "path": None} for i in range(n)]
    return {"image": images, "text": [f"number {i}" for i in range(n)], **more}


def write(path: Path, columns: dict[str, Any], pictures: tuple[str, ...] = ("image",)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    kinds = {name: Image() if name in pictures else Value("string") for name in columns}
    Dataset.from_dict(columns, features=Features(kinds)).to_parquet(path)
    return path


def test_parquet_files_with_keys_captions_and_maps(tmp_path: Path) -> None:
    depth = [{"bytes": picture(99, (40, 30)), "path": None}, None, {"bytes": picture(99, (30, 40)), "path": None}]
    write(tmp_path / "t" / "a.parquet", table(3, id=["x", "y", "x"], depth=depth), ("image", "depth"))
    source = open_source(f"parquet:{tmp_path / 't'}", 0, 32)
    assert source.keys() == ["x#0", "y", "x#2"]
    assert source.own_maps == ("depth",)
    raw = source.load("x#0")
    assert raw.captions == {"column": "number 0"}
    assert raw.maps["depth"].shape == (60, 80, 3)
    assert int(source.load("y").image[0, 0, 0]) == 10
    assert source.load("y").maps == {}
    with pytest.raises(Rejected) as error:
        source.load("x#2")
    assert error.value.reason == "map_size"
    only = open_source(f"parquet:{tmp_path}/t/*.parquet", 0, 32, ())
    assert only.load("x#2").maps == {}
    assert only.fingerprint() == source.fingerprint() == open_source(f"parquet:{tmp_path / 't'}", 0, 32).fingerprint()


def test_plain_binary_columns_and_lists_of_captions(tmp_path: Path) -> None:
    frame = pd.DataFrame({"jpg": [picture(5), b"junk", None], "caption": [["first", "second"], [], None]})
    frame.to_parquet(tmp_path / "b.parquet")
    source = open_source(f"parquet:{tmp_path}/b.parquet", 0, 32)
    assert source.keys() == [f"row-{i:09d}" for i in range(3)]
    assert source.load("row-000000000").captions == {"column": "first"}
    reasons = {}
    for key in source.keys()[1:]:
        with pytest.raises(Rejected) as error:
            source.load(key)
        reasons[key] = error.value.reason
    assert list(reasons.values()) == ["not_image", "unreadable"]


def test_a_path_in_a_table_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "private.png").write_bytes(picture(1))
    frame = pd.DataFrame({"image": [{"bytes": None, "path": str(tmp_path / "private.png")}], "text": ["mine"]})
    frame.to_parquet(tmp_path / "p.parquet")
    source = open_source(f"parquet:{tmp_path}/p.parquet", 0, 32)
    with pytest.raises(Rejected) as error:
        source.load(source.keys()[0])
    assert error.value.reason == "unreadable"


def test_our_own_sets_are_a_source(tmp_path: Path) -> None:
    first = DatasetConfig(
        size="12", eval_size=4, image_size=64, workers=0, out=tmp_path, name="first", condition=("depth",)
    )
    build(first)
    source = open_source(f"parquet:{tmp_path / 'first'}", 0, 64)
    assert len(source.keys()) == 16  # the table of rejects is not read
    assert source.own_maps == ("depth",)
    again = DatasetConfig(
        source=f"parquet:{tmp_path / 'first'}", size="8", eval_size=2, eval_share=0.3, image_size=64, workers=0,
        out=tmp_path, name="again", condition=("depth", "canny"), screen="render", image_format="png", duplicates="off",
    )  # fmt: skip
    build(again)
    columns = ["key", "sha256", "text"]
    old = pd.concat(pd.read_parquet(p) for p in sorted((tmp_path / "first").glob("*-0*.parquet")))
    new = pd.concat(pd.read_parquet(p) for p in sorted((tmp_path / "again").glob("*-0*.parquet")))
    merged = new[columns].merge(old[columns], on="key")
    assert len(merged) == len(new) == 10
    assert (merged.sha256_x == merged.sha256_y).all()
    assert (merged.text_x == merged.text_y).all()
    assert set(new.caption_source) == {"column"}


def test_a_blank_caption_of_our_own_sets_is_blank(tmp_path: Path) -> None:
    build(DatasetConfig(size="6", eval_size=2, image_size=32, workers=0, out=tmp_path, name="first"))
    damage(DamageConfig(tmp_path / "first", ("dropped_caption=1",), name="mute"))
    source = open_source(f"parquet:{tmp_path}/mute/train-*.parquet", 0, 32)
    keys = source.keys()
    assert [source.load(key).captions for key in keys] == [{}] * 6  # and not the JSON in ``captions``


def test_hub_names_are_loaded_whole_or_their_head_is_streamed(tmp_path: Path) -> None:
    """A local folder stands for the hub: the same call, the same builder."""
    write(tmp_path / "repo" / "data" / "train-00000.parquet", table(6))
    write(tmp_path / "repo" / "data" / "test-00000.parquet", table(3))
    assert len(open_source(f"hub:{tmp_path / 'repo'}", 0, 32).keys()) == 6
    assert len(open_source(f"hub:{tmp_path / 'repo'}:test", 0, 32).keys()) == 3
    head = open_source(f"hub:{tmp_path / 'repo'}:train:4", 0, 32)
    assert len(head.keys()) == 4
    assert int(head.load("row-000000003").image[0, 0, 0]) == 30
    assert head.fingerprint() == open_source(f"hub:{tmp_path / 'repo'}:train:4", 0, 32).fingerprint()
    assert head.fingerprint() != open_source(f"hub:{tmp_path / 'repo'}:train:5", 0, 32).fingerprint()


@pytest.mark.parametrize(
    "spec", ["parquet:", "parquet:/nowhere", "parquet:/nowhere/*.parquet", "hub:", "hub:/nowhere/x"]
)
def test_bad_places_are_one_clear_line(spec: str) -> None:
    with pytest.raises(CnlabError) as error:
        open_source(spec, 0, 32)
    assert "\n" not in str(error.value)


def test_tables_without_images_and_broken_files_are_one_clear_line(tmp_path: Path) -> None:
    pd.DataFrame({"text": ["a"]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(CnlabError, match="holds no pictures; its columns: text"):
        open_source(f"parquet:{tmp_path}/t.parquet", 0, 32)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(CnlabError, match="cannot be read") as error:
        open_source(f"parquet:{tmp_path}/broken.parquet", 0, 32)
    assert "\n" not in str(error.value)
