from __future__ import annotations

import cv2
import numpy as np
import pytest

from pipeline.conditions import REGISTRY, get_condition
from pipeline.conditions.base import sample_rng
from pipeline.io import CnlabError
from pipeline.shards import decode_png, encode_png
from pipeline.tabletop import render, sample_scene


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return render(sample_scene(1, 3), 128).image


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_map_is_a_function_of_image_and_recorded_parameters(name: str, picture: np.ndarray) -> None:
    condition = get_condition(name)
    params = condition.draw(sample_rng(1, name, "some-key"))
    assert params == condition.draw(sample_rng(1, name, "some-key"))
    assert params != condition.draw(sample_rng(1, name, "another-key"))
    made = condition.extract(picture, params)
    assert made.dtype == np.uint8
    assert made.shape[:2] == picture.shape[:2]
    assert np.array_equal(made, get_condition(name).extract(picture, params))
    assert 0 < (made > 127).mean() < 0.5
    assert np.array_equal(decode_png(encode_png(made, condition.binary))[..., 0], made)


def test_canny_is_opencvs_at_the_recorded_thresholds(picture: np.ndarray) -> None:
    assert np.array_equal(
        get_condition("canny").extract(picture, {"low": 80, "high": 170}), cv2.Canny(picture, 80, 170)
    )


def test_canny_thresholds_spread_over_their_range() -> None:
    drawn = [get_condition("canny").draw(sample_rng(1, "canny", str(i))) for i in range(2000)]
    low, gap = np.array([d["low"] for d in drawn]), np.array([d["high"] - d["low"] for d in drawn])
    assert (low.min(), low.max(), gap.min(), gap.max()) == (50, 150, 50, 150)
    assert abs(low.mean() - 100) < 3
    assert abs(gap.mean() - 100) < 3


def test_one_bit_png_is_smaller_and_lossless() -> None:
    edges = (np.random.default_rng(0).random((128, 128)) < 0.05).astype(np.uint8) * 255
    small, large = encode_png(edges, binary=True), encode_png(edges)
    assert len(small) < len(large)
    assert np.array_equal(decode_png(small), decode_png(large))


def test_given_maps_have_no_extractor(picture: np.ndarray) -> None:
    with pytest.raises(TypeError):
        get_condition("depth", given=("depth",)).extract(picture, {})
    with pytest.raises(CnlabError, match="unknown condition 'depth'"):
        get_condition("depth")
