from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from pipeline.conditions import REGISTRY, get_condition, weight_free
from pipeline.conditions.__main__ import Sheet, draw_sheet, photograph, tiles
from pipeline.conditions.base import FLIP_UNSAFE, safe_quantise, sample_rng
from pipeline.contract.errors import CnlabError
from pipeline.contract.pictures import decode_image, encode_png
from pipeline.tabletop import render, sample_scene

Picture = NDArray[np.uint8]
EDGES = ["canny", "softedge", "lineart", "scribble", "lines"]


@pytest.fixture(scope="module")
def render128() -> Picture:
    return render(sample_scene(1, 3), 128).image


@pytest.fixture(scope="module")
def photo() -> Picture:
    return np.ascontiguousarray(data.coffee()[:, 100:500])  # CC0; (400, 400, 3)


def hostile(name: str, height: int, width: int) -> Picture:
    rng = np.random.default_rng(0)
    return {
        "black": np.zeros((height, width, 3), np.uint8),
        "white": np.full((height, width, 3), 255, np.uint8),
        "constant": np.full((height, width, 3), (200, 30, 90), np.uint8),
        "noise": rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
        "checkerboard": np.repeat((np.indices((height, width)).sum(0) % 2 * 255).astype(np.uint8)[..., None], 3, 2),
    }[name]


def check_map(name: str, made: Picture, shape: tuple[int, ...]) -> None:
    assert made.dtype == np.uint8
    assert made.shape[:2] == shape[:2]
    assert made.ndim == 2 or made.shape[2] == 3
    assert made.flags.c_contiguous
    if get_condition(name).binary:
        assert made.ndim == 2
        assert np.isin(made, (0, 255)).all()


def test_there_are_eleven_that_need_no_weights() -> None:
    names = [*EDGES, "shuffle", "tile", "blur", "palette", "inpaint", "grey"]
    assert weight_free() == names
    assert set(names) < set(REGISTRY)


@pytest.mark.parametrize("name", weight_free())
def test_map_is_a_function_of_image_and_recorded_parameters(name: str, render128: Picture) -> None:
    condition = get_condition(name)
    params = condition.draw(sample_rng(1, name, "some-key"))
    assert params == condition.draw(sample_rng(1, name, "some-key"))
    image = render128.copy()
    image.setflags(write=False)
    made = condition.extract(image, params)
    assert np.array_equal(image, render128)
    np.random.default_rng().random(3)
    replayed = get_condition(name).extract(render128, json.loads(json.dumps(params)))  # as from the row
    assert np.array_equal(made, replayed)
    stored = decode_image(encode_png(made, condition.binary))
    assert np.array_equal(stored if made.ndim == 3 else stored[..., 0], made)
    check_map(name, made, render128.shape)


@pytest.mark.parametrize("name", weight_free())
def test_parameters_vary_and_matter(name: str, photo: Picture) -> None:
    condition = get_condition(name)
    drawn = [condition.draw(sample_rng(1, name, str(i))) for i in range(8)]
    assert len({json.dumps(d) for d in drawn}) >= 4
    maps = {condition.extract(photo, d).tobytes() for d in drawn}
    assert len(maps) >= 4
    assert len(json.dumps(drawn[0])) < 2000


@pytest.mark.parametrize("name", weight_free())
@pytest.mark.parametrize(("height", "width"), [(32, 32), (37, 53), (128, 96), (512, 512)])
def test_any_size(name: str, height: int, width: int, photo: Picture) -> None:
    image = cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA)
    for key in "abc":
        made = get_condition(name).extract(image, get_condition(name).draw(sample_rng(1, name, key)))
        check_map(name, made, image.shape)


@pytest.mark.parametrize("name", weight_free())
@pytest.mark.parametrize("kind", ["black", "white", "constant", "noise", "checkerboard"])
def test_degenerate_pictures(name: str, kind: str) -> None:
    image = hostile(kind, 48, 40)
    condition = get_condition(name)
    for key in "abcd":
        made = condition.extract(image, condition.draw(sample_rng(1, name, key)))
        check_map(name, made, image.shape)
        if name in EDGES and kind in ("black", "white", "constant"):
            assert not made.any()  # flat: no edges, whatever the level


@pytest.mark.parametrize("name", weight_free())
def test_views_and_mirrored_pictures_are_read_right(name: str, photo: Picture) -> None:
    condition = get_condition(name)
    params = condition.draw(sample_rng(1, name, "view"))
    view = photo[::2, ::-2]
    assert np.array_equal(condition.extract(view, params), condition.extract(np.ascontiguousarray(view), params))


@pytest.mark.parametrize("name", EDGES)
def test_edge_maps_are_light_on_dark_and_mostly_dark(name: str, photo: Picture, render128: Picture) -> None:
    condition = get_condition(name)
    assert condition.light_on_dark
    drawn = [condition.draw(sample_rng(1, name, str(key))) for key in range(10)]
    shares = [(condition.extract(image, d) > 127).mean() for image in (photo, render128) for d in drawn]
    assert max(shares) < 0.5
    assert np.median(shares) > 0.005


@pytest.mark.parametrize("name", ["canny", "softedge", "lineart", "lines", "scribble"])
def test_edges_lie_where_the_image_changes(name: str) -> None:
    image = np.full((128, 128, 3), 40, np.uint8)
    image[:, 64:] = 220
    condition = get_condition(name)
    for key in "abcdef":
        params = condition.draw(sample_rng(1, name, key)) | ({"gaps": 0.0} if name == "scribble" else {})
        rows = condition.extract(image, params)[16:-16].astype(float)
        columns = rows.mean(0)
        assert columns[60:68].max() > 60
        assert not columns[:52].any()
        assert not columns[76:].any()
        assert np.ptp(rows, axis=0).max() <= 1  # the same in each row


@pytest.mark.parametrize("name", ["canny", "softedge", "grey", "tile", "blur", "palette"])
def test_aligned_flip_safe_maps_mirror_with_the_image(name: str, photo: Picture) -> None:
    condition = get_condition(name)
    assert condition.flip_safe
    params = condition.draw(sample_rng(1, name, "flip")) | ({"cells": 8} if name == "palette" else {})
    straight = condition.extract(photo, params).astype(int)
    mirrored = condition.extract(np.ascontiguousarray(photo[:, ::-1]), params)[:, ::-1].astype(int)
    assert np.abs(straight - mirrored).mean() < 3  # ties at thresholds may fall the other way


# ---- given maps, safe quantisation, names


def test_given_maps_have_no_extractor(render128: Picture) -> None:
    with pytest.raises(TypeError):
        get_condition("depth", own_maps=("depth",)).extract(render128, {})
    with pytest.raises(CnlabError, match="unknown condition 'semaphore'"):
        get_condition("semaphore")


def test_flips_are_safe_where_colours_do_not_say_left_and_right() -> None:
    assert get_condition("depth", own_maps=("depth",)).flip_safe
    assert get_condition("segment", own_maps=("segment",)).flip_safe
    assert not get_condition("normal", own_maps=("normal",)).flip_safe
    for name in set(REGISTRY) - {"mediapipe_face"}:
        assert get_condition(name).flip_safe == (name not in FLIP_UNSAFE), name


def test_dwpose_says_why_not_and_what_to_take() -> None:
    with pytest.raises(CnlabError, match=r"'dwpose' needs mmpose.*'openpose'"):
        get_condition("dwpose")


def published_safe_step(x: NDArray[np.float32], step: int = 2) -> NDArray[np.float32]:
    """ControlNet 1.1, annotator/util.py."""
    y = x.astype(np.float32) * float(step + 1)
    return y.astype(np.int32).astype(np.float32) / float(step)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_safe_quantise_is_the_published_formula(steps: int) -> None:
    every = np.arange(256, dtype=np.uint8)[None]
    published = (published_safe_step(every.astype(np.float32) / 255, steps) * 255.0).clip(0, 255).astype(np.uint8)
    made = safe_quantise(every, steps)
    assert np.array_equal(made, published)
    assert len(np.unique(made)) == steps + 1
    assert (np.diff(made.astype(int)) >= 0).all()


def test_safe_quantise_has_three_levels_by_default(photo: Picture) -> None:
    soft = get_condition("softedge").extract(photo, {"sigma": 1.5, "width": 1.5, "half": 40.0})
    assert get_condition("softedge").soft
    assert np.unique(safe_quantise(soft)).tolist() == [0, 127, 255]


# ---- the sheet of docs/img


def test_sheet_shows_every_condition_of_a_picture(render128: Picture, tmp_path: Path) -> None:
    shown = tiles("render", render128, Sheet(tmp_path / "sheet.png"))
    assert [tile.title for tile in shown] == ["render", *weight_free()]
    canvas = draw_sheet([shown, shown[:3]])
    assert canvas.size[0] == 6 * (176 + 8) + 8
    assert canvas.size[1] == 3 * (176 + 46 + 8) + 8
    first = np.asarray(canvas)[8 : 8 + 176, 8 : 8 + 176].astype(int)
    assert np.abs(first - cv2.resize(render128, (176, 176), interpolation=cv2.INTER_LANCZOS4)).mean() < 3


def test_sheet_takes_any_photograph(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((40, 90, 3), np.uint8)).save(tmp_path / "wide.png")
    assert photograph(tmp_path / "wide.png").shape == photograph(None).shape == (512, 512, 3)
    (tmp_path / "not.png").write_text("hello")
    with pytest.raises(CnlabError, match=r"not\.png cannot be read as a picture"):
        photograph(tmp_path / "not.png")
