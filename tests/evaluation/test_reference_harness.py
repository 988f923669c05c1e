"""The defects of ControlNet++'s published evaluation code, each shown not to be here.

The third one (pictures that depend on the number of processes and on stops) is shown in test_generations.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.judges.features import Extractor
from evaluation.metrics.intervals import mean_interval
from evaluation.samples import EvalSet
from evaluation.sampling import RECIPES
from evaluation.scores import Judges, PictureSet, ScoreStore
from evaluation.subjects import Subject
from evaluation.targets import Folder
from pipeline import fidelity as f
from pipeline.contract.errors import CnlabError
from pipeline.contract.pictures import MAX_PIXELS, decode_image, read_picture, write_picture


def test_1_no_recipe_has_a_negative_prompt_unless_it_is_asked_for() -> None:
    assert {recipe.negative_prompt for recipe in RECIPES.values()} == {""}
    assert "negative_prompt" not in RECIPES["controlnetpp"].label


def test_2_grey_levels_are_compared_as_levels() -> None:
    """``1 - map`` on uint8 turns 0 into 1 and 2 into 255: two levels apart became 254."""
    black, nearly = np.zeros((1, 16, 16, 3), np.uint8), np.full((1, 16, 16, 3), 2, np.uint8)
    wrapped = 1 - nearly.astype(np.uint8)
    assert wrapped.max() == 255
    assert f.psnr(nearly, black)[0] == pytest.approx(20 * np.log10(255 / 2))
    assert f.rmse(nearly, black)[0] == 2
    assert f.psnr(255 - nearly, 255 - black)[0] == pytest.approx(f.psnr(nearly, black)[0])


def test_4_every_group_is_scored_by_its_own_pictures(dataset: Path, clip_folder: Path, tmp_path: Path) -> None:
    samples = EvalSet(dataset, ["canny"], 3)

    def read(own: np.ndarray, group: int) -> np.ndarray:
        return samples.images(own) if group == 0 else np.full_like(samples.images(own), 128)

    judges = Judges(
        str(clip_folder), Extractor("toy", ("fd_toy", "kid_toy"), 3, lambda images: images.float().mean((2, 3)))
    )
    pictures = PictureSet(Subject("control", "demo"), samples, np.arange(3), (0, 1), "two", {}, read)
    store = ScoreStore(tmp_path, judges)
    assert store.values(pictures, 0)["canny_f1_0px"].tolist() == [1.0] * 3
    assert store.values(pictures, 1)["canny_f1_0px"].tolist() == [0.0] * 3


def test_5_maps_beside_the_pictures_are_no_pictures(dataset: Path, tmp_path: Path) -> None:
    samples = EvalSet(dataset, ["canny"], 4)
    for key in samples.keys:
        for name in (key, f"{key}_edge", f"{key}.depth"):
            write_picture(tmp_path / f"{name}.png", np.zeros((64, 64, 3), np.uint8))
    folder = Folder(tmp_path, samples, None)
    assert sorted(path.name for path in folder.files.values()) == sorted(f"{key}.png" for key in samples.keys)
    assert "8 pictures there match no sample and are left out" in folder.notes(samples)


def test_6_a_picture_that_unfolds_to_more_than_64_megapixels_is_refused() -> None:
    side = int(MAX_PIXELS**0.5) + 1
    data = io.BytesIO()
    Image.new("1", (side, side)).save(data, "PNG")
    with pytest.raises(CnlabError, match="larger than 64 megapixels"):
        decode_image(data.getvalue(), "a bomb")
    assert Image.MAX_IMAGE_PIXELS is not None


def test_7_pictures_are_stored_without_loss_and_jpeg_is_said_so(dataset: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    write_picture(tmp_path / "x.png", noise)
    assert np.array_equal(read_picture(tmp_path / "x.png"), noise)
    samples = EvalSet(dataset, ["canny"], 2)
    for key in samples.keys:
        Image.fromarray(noise).save(tmp_path / f"{key}.jpg")
    assert "2 are JPEG or of its kind: distances measure its damage too" in Folder(tmp_path, samples, None).notes(
        samples
    )


def test_8_a_number_has_a_spread() -> None:
    estimate = mean_interval(np.random.default_rng(0).normal(size=50))
    assert estimate.low is not None
    assert estimate.high is not None
    assert estimate.low < estimate.value < estimate.high


def test_9_a_shift_by_one_pixel_is_no_miss() -> None:
    edges = np.zeros((1, 32, 32), bool)
    edges[:, 10, 4:28] = True
    assert f.edge_f1(edges, np.roll(edges, 1, 1), 0)[0] == 0
    assert f.edge_f1(edges, np.roll(edges, 1, 1), 2)[0] == 1
