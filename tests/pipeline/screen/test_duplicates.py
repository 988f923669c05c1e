from __future__ import annotations

import io
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
from pipeline.screen.duplicates import Index, Signature, judge, perceptual_hash, pixel_hash
from pipeline.screen.limits import PRESETS

RADIUS = int(PRESETS["default"]["duplicate_bits"])


def signature_of(image: np.ndarray, rank: int, key: str = "") -> Signature:
    return Signature(rank, key or f"k{rank}", pixel_hash(image), perceptual_hash(image))


def recoded(image: np.ndarray, quality: int) -> np.ndarray:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=quality)
    return np.array(Image.open(out))


def resized(image: np.ndarray, side: int) -> np.ndarray:
    small = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    return np.array(small.resize(image.shape[1::-1], Image.Resampling.LANCZOS))


@pytest.mark.slow
def test_planted_copies_are_found_and_different_pictures_are_not() -> None:
    photos = clean_photos(200, 256)
    index = Index(RADIUS)
    for i, photo in enumerate(photos):
        index.add(signature_of(photo, i), "train")
    exact = sum(
        index.find(signature_of(photo.copy(), 900)) == (f"k{i}", -1, "train", "") for i, photo in enumerate(photos)
    )
    assert exact == 200
    for change in (
        lambda p: recoded(p, 70),
        lambda p: recoded(p, 30),
        lambda p: resized(p, 128),
        lambda p: resized(p, 96),
    ):
        twins = [index.find(signature_of(change(p), 900)) for p in photos]
        found = sum(t is not None and t.key == f"k{i}" for i, t in enumerate(twins))
        assert found >= 190, found


def test_distinct_photographs_are_no_copies_of_each_other() -> None:
    photos = clean_photos(200, 256)
    index, alarms = Index(RADIUS), 0
    for i, photo in enumerate(photos):
        signature = signature_of(photo, i)
        alarms += index.find(signature) is not None
        index.add(signature, "train")
    assert alarms <= 2


def test_hash_distance_is_the_number_of_differing_bits() -> None:
    index = Index(3)
    index.add(Signature(0, "a", "00" * 32, "00" * 32), "eval")
    assert index.find(Signature(1, "b", "11" * 32, "00" * 31 + "07")) == ("a", 3, "eval", "")
    assert index.find(Signature(1, "b", "11" * 32, "00" * 31 + "0f")) is None
    assert index.find(Signature(1, "b", "00" * 32, "ff" * 32)) == ("a", -1, "eval", "")


def test_index_grows_and_finds_the_nearest() -> None:
    rng = np.random.default_rng(0)
    signatures = [Signature(i, str(i), rng.bytes(32).hex(), rng.bytes(32).hex()) for i in range(3000)]
    index = Index(40)
    for signature in signatures:
        assert index.find(signature) is None
        index.add(signature, "train")
    bits = bytearray.fromhex(signatures[2500].phash)
    bits[3] ^= 0b10101
    assert index.find(Signature(9, "x", "00" * 32, bits.hex())) == ("2500", 3, "train", "")


def test_a_chain_of_slight_changes_is_one_group() -> None:
    words = ["00" * 32, "00" * 31 + "07", "00" * 31 + "3f"]  # each 3 bits from the one before, the ends 6 apart
    signatures = [Signature(i, str(i), f"{i:02d}" * 32, w) for i, w in enumerate(words)]
    twins = judge(Index(3), signatures, set(), "train", 10)
    assert {rank: t.key for rank, t in twins.items()} == {1: "0", 2: "1"}


def test_judging_again_after_an_interruption_decides_the_same() -> None:
    rng = np.random.default_rng(1)
    words = [rng.bytes(32).hex() for _ in range(20)]
    signatures = [Signature(i, str(i), f"{i:02d}" * 32, words[i % 20]) for i in range(60)]
    first = judge(Index(5), signatures, set(), "train", 99)
    index = Index(5)
    assert judge(index, signatures[:30], {r for r in first if r < 30}, "train", 99) == {}
    assert judge(index, signatures[30:], set(), "train", 99).keys() == {r for r in first if r >= 30}
    assert len(first) == 40


def test_what_lies_beyond_the_cut_shadows_nothing() -> None:
    index = Index(5)
    signatures = [Signature(i, str(i), f"{i:02d}" * 32, f"{i:02x}" * 32) for i in range(5)]
    judge(index, signatures, set(), "eval", 3)
    assert len(index) == 3


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, photo in enumerate(clean_photos(60, 160)):
        Image.fromarray(photo).save(folder / f"quiet scene {i:03d}.png")
        if i % 6 == 0:
            Image.fromarray(photo).save(folder / f"same pixels {i:03d}.bmp")
        if i % 6 == 1:
            Image.fromarray(photo).save(folder / f"recompressed {i:03d}.jpg", quality=60)
        if i % 6 == 2:
            Image.fromarray(photo).resize((120, 120), Image.Resampling.BICUBIC).save(folder / f"resized {i:03d}.png")
    return folder


def config(out: Path, photos: Path, **options: object) -> DatasetConfig:
    chosen = {"source": f"folder:{photos}", "size": "1k", "eval_size": 60, "eval_share": 0.3, "block": 16,
              "image_size": 128, "out": out, "name": "set", "workers": 0, **options}  # fmt: skip
    return DatasetConfig(**chosen)  # type: ignore[arg-type]


def number(key: str) -> str:
    return key.rsplit(" ", 1)[1].split(".")[0]


def test_one_of_each_group_is_kept_on_one_side(photos: Path, tmp_path: Path) -> None:
    made = config(tmp_path, photos)
    header = build(made)
    kept = {s: Triplets(made.folder).table(s, ["key"])["key"].to_pylist() for s in ("train", "eval")}
    numbers = [number(k) for keys in kept.values() for k in keys]
    assert len(numbers) == len(set(numbers))  # no group twice, so none on both sides
    rejected = pq.read_table(made.folder / "rejects.parquet").to_pylist()
    copies = [r for r in rejected if r["reason"] in ("duplicate", "near_duplicate")]
    assert header["rejects"].get("duplicate", 0) >= 9
    assert len(copies) >= 28
    assert all(r["thumbnail"]["bytes"] for r in copies)
    assert all(number(r["detail"].split(": ", 1)[1].rsplit(" (", 1)[0]) == number(r["key"]) for r in copies)


def test_subsets_stay_nested_with_copies_in_the_source(photos: Path, tmp_path: Path) -> None:
    large, small = config(tmp_path, photos, name="large", size="30"), config(tmp_path, photos, name="small", size="12")
    build(large)
    build(small)
    keys = [Triplets(c.folder).table("train", ["key"])["key"].to_pylist() for c in (large, small)]
    assert len(keys[0]) == 30
    assert keys[1] == keys[0][:12]


@pytest.mark.slow
def test_adding_images_keeps_the_order_of_those_that_stay(photos: Path, tmp_path: Path) -> None:
    before = config(tmp_path, photos, name="before")
    build(before)
    for i, photo in enumerate(clean_photos(80, 160)[60:]):
        Image.fromarray(photo).save(photos / f"new scene {i + 500}.png")
    for name in ("quiet scene 007.png", "quiet scene 033.png"):
        (photos / name).unlink()
    after = config(tmp_path, photos, name="after")
    build(after)
    for split in ("train", "eval"):
        old, new = (Triplets(c.folder).table(split, ["key"])["key"].to_pylist() for c in (before, after))
        both = set(old) & set(new)
        assert [k for k in old if k in both] == [k for k in new if k in both]
    trained = set(Triplets(before.folder).table("train", ["key"])["key"].to_pylist())
    assert not trained & set(Triplets(after.folder).table("eval", ["key"])["key"].to_pylist())


def test_an_outside_set_is_kept_out(photos: Path, tmp_path: Path) -> None:
    outside = tmp_path / "benchmark"
    outside.mkdir()
    for i in (3, 4, 9, 10):
        Image.open(photos / f"quiet scene {i:03d}.png").save(outside / f"{i}.jpg", quality=80)
    made = config(tmp_path, photos, decontaminate=f"folder:{outside}")
    header = build(made)
    rejected = pq.read_table(made.folder / "rejects.parquet").to_pylist()
    found = {r["key"] for r in rejected if r["reason"] == "contaminated"}
    assert {f"quiet scene {i:03d}.png" for i in (3, 4, 9, 10)} <= found
    assert header["config"]["decontaminate"]
    with pytest.raises(CnlabError, match="needs duplicates on"):
        build(config(tmp_path, photos, name="other", decontaminate=f"folder:{outside}", duplicates="off"))
