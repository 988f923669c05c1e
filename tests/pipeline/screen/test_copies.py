"""Mirrored, turned and cropped copies: recall of each, and false alarms among disjoint crops of photographs."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.build.run import build
from pipeline.config import DatasetConfig
from pipeline.contract.dataset import Triplets
from pipeline.screen.duplicates import (
    Index,
    Signature,
    look_of,
    pack_look,
    perceptual_hash,
    pixel_hash,
    unpack_look,
)
from pipeline.screen.limits import PRESETS

SIDE = 88
Change = Callable[[np.ndarray], np.ndarray]


@cache
def tiles() -> tuple[np.ndarray, ...]:
    """Disjoint tiles of scikit-image's photographs, those with next to no structure left out."""
    from skimage import data

    made = []
    for photo in (data.astronaut(), data.coffee(), data.chelsea(), data.rocket(), data.stereo_motorcycle()[0]):
        for top in range(0, photo.shape[0] - SIDE + 1, SIDE):
            for left in range(0, photo.shape[1] - SIDE + 1, SIDE):
                tile = np.ascontiguousarray(photo[top : top + SIDE, left : left + SIDE])
                if tile.std() > 20:
                    made.append(tile)
    return tuple(made)


def signature_of(image: np.ndarray, key: str) -> Signature:
    phash = perceptual_hash(image)
    return Signature(0, key, pixel_hash(image), phash, look_of(image, phash))


def index() -> Index:
    limits = PRESETS["default"]
    return Index(int(limits["duplicate_bits"]), int(limits["mirror_bits"]), limits["min_crop_fit"])


def recoded(image: np.ndarray, quality: int) -> np.ndarray:
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(out, "JPEG", quality=quality)
    return np.array(Image.open(out))


def cropped(image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    side = round(len(image) * share)
    top, left = rng.integers(0, len(image) - side + 1, 2)
    return cv2.resize(np.ascontiguousarray(image[top : top + side, left : left + side]), image.shape[1::-1])


@pytest.fixture(scope="module")
def known() -> Index:
    filled = index()
    for i, tile in enumerate(tiles()):
        filled.add(signature_of(tile, str(i)), "train")
    return filled


def recall(known: Index, change: Change, how: str) -> float:
    twins = [known.find(signature_of(np.ascontiguousarray(change(tile)), "new")) for tile in tiles()]
    return sum(t is not None and t.key == str(i) and t.how in (how, "") for i, t in enumerate(twins)) / len(twins)


@pytest.mark.parametrize("turn", range(8))
@pytest.mark.parametrize("quality", [100, 70])
def test_mirrored_and_turned_copies_are_found(turn: int, quality: int, known: Index) -> None:
    def change(tile: np.ndarray) -> np.ndarray:
        return recoded(np.rot90(tile[:, ::-1] if turn >= 4 else tile, turn % 4), quality)

    assert recall(known, change, "mirrored") >= 0.95


@pytest.mark.parametrize(("share", "least"), [(0.8, 0.65), (0.9, 0.5)])
def test_crops_are_found(share: float, least: float, known: Index) -> None:
    rng = np.random.default_rng(3)
    assert recall(known, lambda tile: cropped(tile, share, rng), "cropped") >= least
    assert recall(known, lambda tile: recoded(cropped(tile, share, rng), 75), "cropped") >= least


def test_an_earlier_crop_is_found_too() -> None:
    rng, crops = np.random.default_rng(4), index()
    for i, tile in enumerate(tiles()):
        crops.add(signature_of(cropped(tile, 0.8, rng), str(i)), "train")
    assert recall(crops, lambda tile: tile, "cropped") >= 0.65


def test_different_pictures_are_no_copies() -> None:
    known, alarms = index(), []
    for i, tile in enumerate(tiles()):
        signature = signature_of(tile, str(i))
        if twin := known.find(signature):
            alarms.append((i, twin))
        known.add(signature, "train")
    assert len(tiles()) >= 100
    assert len(alarms) <= 0.01 * len(tiles()), alarms


def test_looks_survive_being_written_down() -> None:
    look = signature_of(tiles()[0], "a").look
    assert look
    again = unpack_look(pack_look(look))
    assert again.turns == look.turns
    assert np.array_equal(again.parts, look.parts)
    assert np.array_equal(again.thumb, look.thumb)


def test_thresholds_switch_each_off() -> None:
    plain = Index(40)
    plain.add(signature_of(tiles()[3], "a"), "train")
    assert plain.find(signature_of(np.ascontiguousarray(tiles()[3][:, ::-1]), "b")) is None
    assert plain.find(signature_of(cropped(tiles()[3], 0.8, np.random.default_rng(0)), "b")) is None


def test_a_build_rejects_and_counts_them(tmp_path: Path) -> None:
    folder, rng = tmp_path / "photos", np.random.default_rng(5)
    folder.mkdir()
    for i, tile in enumerate(tiles()[:40]):
        Image.fromarray(tile).save(folder / f"scene {i:02d}.png")
        if i % 4 == 0:
            Image.fromarray(np.rot90(tile[:, ::-1])).save(folder / f"turned scene {i:02d}.png")
        if i % 4 == 1:
            Image.fromarray(cropped(tile, 0.8, rng)).save(folder / f"cropped scene {i:02d}.png")
    config = DatasetConfig(
        source=f"folder:{folder}", size="100", eval_size=20, eval_share=0.2, image_size=64, block=16, workers=0,
        out=tmp_path, name="set", captions=("template:a scene",), screen="off",
        threshold={"mirror_bits": 40, "min_crop_fit": 0.9},
    )  # fmt: skip
    header = build(config)
    kept = [k for s in ("train", "eval") for k in Triplets(config.folder).table(s, ["key"])["key"].to_pylist()]
    numbers = [key.split(" ")[-1] for key in kept]
    assert header["rejects"]["mirrored_copy"] == 10
    assert header["rejects"]["cropped_copy"] >= 6
    assert len(numbers) - len(set(numbers)) <= 4  # crops that were missed
    rejects = pq.read_table(config.folder / "rejects.parquet").to_pylist()
    assert all(r["key"].split(" ")[-1] == r["detail"].split(": ")[1].split(" (")[0].split(" ")[-1] for r in rejects)
