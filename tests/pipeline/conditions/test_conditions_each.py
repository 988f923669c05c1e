"""What is particular to each extractor without weights."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from pipeline.conditions import get_condition
from pipeline.conditions.base import canvas_scale, sample_rng
from pipeline.conditions.gradient import colour_gradient, contrast, ridge
from pipeline.conditions.grey import LUMA
from pipeline.conditions.inpaint import draw_mask, inpaint_mask
from pipeline.conditions.normal import normals
from pipeline.conditions.scribble import drop_short, thin_edges
from pipeline.contract.pictures import decode_image, encode_png
from pipeline.tabletop import render, sample_scene

Picture = NDArray[np.uint8]


@pytest.fixture(scope="module")
def render128() -> Picture:
    return render(sample_scene(1, 3), 128).image


@pytest.fixture(scope="module")
def photo() -> Picture:
    return np.ascontiguousarray(data.coffee()[:, 100:500])  # CC0; (400, 400, 3)


# ---- canny


def test_canny_is_opencvs_at_the_recorded_thresholds(render128: Picture) -> None:
    made = get_condition("canny").extract(render128, {"low": 80, "high": 170})
    assert np.array_equal(made, cv2.Canny(render128, 80, 170))


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
    assert np.array_equal(decode_image(small), decode_image(large))


# ---- gradients, soft edges, line art


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("step", [20, 120])
def test_contrast_gives_the_step_back_at_every_scale(sigma: float, step: int) -> None:
    image = np.full((64, 64, 3), 60, np.uint8)
    image[:, 32:, 1] += np.uint8(step)
    dx, dy = colour_gradient(image, sigma)
    assert contrast(dx, dy, sigma).max() == pytest.approx(step, rel=0.08)
    assert np.abs(dy).max() < 1e-3


def test_ridge_is_one_or_two_pixels_wide_in_every_direction() -> None:
    y, x = np.mgrid[:96, :96].astype(np.float32) - 48
    for degrees in range(0, 180, 15):
        angle = np.deg2rad(degrees)
        across = x * np.cos(angle) + y * np.sin(angle)
        ramp = (127.5 + 100 * np.tanh(across / 3)).astype(np.uint8)
        dx, dy = colour_gradient(np.repeat(ramp[..., None], 3, 2), 1.5)
        strength = contrast(dx, dy, 1.5)
        found = ridge(dx, dy, strength) & (strength > 0.5 * strength.max())
        found[:4] = found[-4:] = found[:, :4] = found[:, -4:] = False  # the repeated border bends the gradient
        assert np.abs(across[found]).max() < 2
        assert 88 * 0.6 < found.sum() < 88 * 2.1


def test_softedge_is_half_white_at_the_recorded_step() -> None:
    image = np.full((512, 512, 3), 60, np.uint8)
    image[:, 200:] += 40
    made = get_condition("softedge").extract(image, {"sigma": 1.5, "width": 2.0, "half": 40.0})
    assert made[256].max() == pytest.approx(127.5, rel=0.08)
    weak = get_condition("softedge").extract(image, {"sigma": 1.5, "width": 2.0, "half": 160.0})
    assert weak[256].max() == pytest.approx(255 / 17, rel=0.15)
    lit = np.flatnonzero(made[256] > 0.5 * made[256].max())
    assert lit.max() - lit.min() + 1 == pytest.approx(2.355 * 2, abs=1)  # a Gaussian's full width


def test_lineart_is_the_published_threshold_of_the_difference() -> None:
    params = {"sigma": 1.2, "tau": 0.985, "epsilon": -0.01, "phi": 50.0}
    image = np.ascontiguousarray(data.astronaut()[:, :400])
    x = image.astype(np.float64) / 255
    scale = canvas_scale(image)
    u = cv2.GaussianBlur(x, (0, 0), 1.2 * scale) - 0.985 * cv2.GaussianBlur(x, (0, 0), 1.6 * 1.2 * scale)
    drawn = np.where(u >= -0.01, 1, 1 + np.tanh(50.0 * (u + 0.01)))  # Winnemoeller et al. (2012), black on white
    made = get_condition("lineart").extract(image, params)
    assert np.abs(made - 255 * (1 - drawn).max(2)).max() <= 1


def test_lineart_inks_the_dark_side_of_an_edge() -> None:
    image = np.full((512, 512, 3), 230, np.uint8)
    image[:, 256:] = 20
    made = get_condition("lineart").extract(image, {"sigma": 1.5, "tau": 1.0, "epsilon": -0.005, "phi": 100.0})
    assert made[256, 257] > 200
    assert not made[256, :254].any()
    assert not made[256, 270:].any()


def test_lineart_draws_edges_between_colours_of_one_luminance() -> None:
    image = np.full((128, 128, 3), (200, 60, 60), np.uint8)
    image[:, 64:] = (60, 132, 60)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    assert np.ptp(grey) <= 1
    made = get_condition("lineart").extract(image, {"sigma": 1.5, "tau": 1.0, "epsilon": -0.005, "phi": 100.0})
    assert made[64, 63:65].min() > 200


# ---- lines, scribble


def test_lines_finds_the_four_sides_of_a_square() -> None:
    image = np.full((200, 200, 3), 30, np.uint8)
    image[50:150, 50:150] = 220
    made = get_condition("lines").extract(image, {"length": 40.0, "scale": 0.8})
    outline = np.zeros((200, 200), np.uint8)
    cv2.rectangle(outline, (50, 50), (149, 149), 255, 1)
    near = cv2.dilate(outline, np.ones((5, 5), np.uint8)) > 0
    assert not made[~near].any()
    assert (cv2.dilate(made, np.ones((5, 5), np.uint8)) > 0)[outline > 0].mean() > 0.9


def test_lines_drops_what_is_shorter_than_recorded() -> None:
    image = np.full((512, 512, 3), 30, np.uint8)
    image[100:400, 100:102] = 220
    image[100:118, 300:340] = 220
    long, all_of_them = (get_condition("lines").extract(image, {"length": v, "scale": 0.8}) for v in (60.0, 12.0))
    assert not long[:, 200:].any()
    assert long[:, :200].any()
    assert all_of_them[:, 290:350].any()


def test_lines_of_a_circle_are_few() -> None:
    params = {"length": 120.0, "scale": 0.8}
    circle = cv2.circle(np.full((256, 256, 3), 30, np.uint8), (128, 128), 60, (220, 220, 220), -1)
    assert (get_condition("lines").extract(circle, params) > 0).sum() < 60


def scribbled(image: Picture, **params: float) -> Picture:
    fixed = {"width": 6.0, "sigma": 2.0, "rank": 0.5, "swell": 1.0, "step": 40.0, "gaps": 0.0, "seed": 1}
    return get_condition("scribble").extract(image, fixed | params)


@pytest.mark.parametrize("width", [1.0, 4.0, 9.0, 24.0])
def test_scribble_is_as_wide_as_its_pen(width: float) -> None:
    image = np.full((512, 512, 3), 40, np.uint8)
    image[:, 256:] = 220
    row = scribbled(image, width=width, swell=0.0)[256]
    assert abs((row > 0).sum() - width) <= 2


def test_scribble_is_thicker_than_its_edges_and_covers_them(photo: Picture) -> None:
    params = {"width": 8.0, "sigma": 2.5, "rank": 0.5, "swell": 1.0, "step": 40.0, "gaps": 0.0, "seed": 1}
    made = get_condition("scribble").extract(photo, params) > 0
    scale = canvas_scale(photo)
    edges = drop_short(thin_edges(photo, params), 16 * scale)
    assert made[edges].all()
    assert made.sum() > 3 * edges.sum()


def test_scribble_gaps_take_their_share(photo: Picture) -> None:
    whole = (scribbled(photo, width=1.0, swell=0.0) > 0).sum()
    some = np.mean([(scribbled(photo, width=1.0, swell=0.0, gaps=0.3, seed=i) > 0).sum() for i in range(20)])
    assert 0.5 < some / whole < 0.85
    assert not np.array_equal(scribbled(photo, gaps=0.3, seed=1), scribbled(photo, gaps=0.3, seed=2))


def test_scribble_pens_are_spread_over_their_range() -> None:
    drawn = [get_condition("scribble").draw(sample_rng(1, "scribble", str(i)))["width"] for i in range(1000)]
    assert 1 <= min(drawn) < 1.2
    assert 20 < max(drawn) <= 24


# ---- shuffle, tile, blur, palette, grey


def test_shuffle_keeps_the_colours_and_not_their_places(photo: Picture) -> None:
    """The flow is not area preserving, so the histogram is kept on average over flows."""
    condition = get_condition("shuffle")
    maps = [condition.extract(photo, condition.draw(sample_rng(1, "shuffle", str(i)))) for i in range(24)]

    def histogram(*images: Picture) -> NDArray[np.float64]:
        counts = cv2.calcHist(list(images), [0, 1, 2], None, [4, 4, 4], [0, 256] * 3)
        for image in images[1:]:
            counts = counts + cv2.calcHist([image], [0, 1, 2], None, [4, 4, 4], [0, 256] * 3)
        return counts / counts.sum()

    first = histogram(photo)
    overlap = [np.minimum(first, histogram(m)).sum() for m in maps]
    assert np.mean(overlap) > 0.6
    for made in maps[:3]:
        assert np.abs(made.astype(int) - photo).mean() > 25
        assert made.min() >= photo.min()
        assert made.max() <= photo.max()
    assert not np.array_equal(maps[0], maps[1])


def test_shuffle_leaves_a_constant_picture_alone() -> None:
    image = np.full((64, 80, 3), (200, 30, 90), np.uint8)
    assert np.array_equal(get_condition("shuffle").extract(image, {"seed": 5, "grid": 256.0}), image)


def test_tile_is_a_down_up_sample(photo: Picture) -> None:
    made = get_condition("tile").extract(photo, {"factor": 4.0})
    small = photo.reshape(100, 4, 100, 4, 3).mean((1, 3))
    assert np.abs(cv2.resize(made, (100, 100), interpolation=cv2.INTER_AREA) - small).mean() < 2
    expected = cv2.resize(np.rint(small).astype(np.uint8), (400, 400), interpolation=cv2.INTER_CUBIC)
    assert np.abs(made.astype(int) - expected).max() <= 2
    assert np.array_equal(get_condition("tile").extract(photo, {"factor": 1.0}), photo)


def test_blur_has_the_recorded_sigma() -> None:
    image = np.zeros((512, 512, 3), np.uint8)
    image[:, 256:] = 255
    row = get_condition("blur").extract(image, {"sigma": 8.0})[256, :, 0].astype(float)
    slope = np.diff(row)
    at = np.arange(511) + 0.5
    centre = (slope * at).sum() / slope.sum()
    assert np.sqrt((slope * (at - centre) ** 2).sum() / slope.sum()) == pytest.approx(8.0, rel=0.05)


def test_palette_cells_have_their_mean_colour(photo: Picture) -> None:
    made = get_condition("palette").extract(photo, {"cells": 8})
    blocks, means = made.reshape(8, 50, 8, 50, 3), photo.reshape(8, 50, 8, 50, 3).mean((1, 3))
    assert np.ptp(blocks, axis=(1, 3)).max() == 0
    assert np.abs(blocks[:, 0, :, 0] - means).max() <= 0.5 + 1e-6
    flat = np.repeat(np.repeat(np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8), 16, 0), 16, 1)
    assert np.array_equal(get_condition("palette").extract(flat, {"cells": 4}), flat)


def test_grey_is_the_recorded_mixture_around_luma(photo: Picture) -> None:
    made = get_condition("grey").extract(photo, {"weights": list(LUMA)})
    assert np.abs(made.astype(int) - cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)).max() <= 1
    assert np.array_equal(get_condition("grey").extract(photo, {"weights": [0, 1, 0]}), photo[..., 1])
    drawn = np.array([get_condition("grey").draw(sample_rng(1, "grey", str(i)))["weights"] for i in range(2000)])
    assert drawn.min() >= 0
    assert np.allclose(drawn.sum(1), 1)
    assert np.allclose(drawn.mean(0), LUMA, atol=0.01)


# ---- inpaint


def test_inpaint_marks_the_recorded_mask_and_nothing_else(photo: Picture) -> None:
    condition = get_condition("inpaint")
    image = photo.copy()
    image[:40, :40] = 0  # black of the image itself is not taken for the mask
    shares = []
    for key in range(40):
        params = condition.draw(sample_rng(1, "inpaint", str(key)))
        made = condition.extract(image, params)
        mask = draw_mask(json.loads(json.dumps(params)), *image.shape[:2])
        assert np.array_equal(inpaint_mask(made), mask)
        assert not made[mask].any()
        assert np.array_equal(made[~mask], np.where(image[~mask].any(1, keepdims=True), image[~mask], 1))
        shares.append(mask.mean())
    assert min(shares) > 0.003
    assert max(shares) < 0.8
    assert 0.08 < np.mean(shares) < 0.4


def test_inpaint_masks_scale_with_the_picture() -> None:
    params = get_condition("inpaint").draw(sample_rng(1, "inpaint", "scale"))
    small, large = draw_mask(params, 128, 128), draw_mask(params, 512, 512)
    shrunk = cv2.resize(large.astype(np.uint8) * 255, (128, 128), interpolation=cv2.INTER_AREA) > 127
    assert (small == shrunk).mean() > 0.97


# ---- normals of a depth map (the model behind it: test_conditions_weights.py)


@pytest.mark.parametrize(("slope_x", "slope_up"), [(0.0, 0.0), (0.5, 0.0), (-0.5, 0.0), (0.0, 0.5), (0.3, -0.4)])
@pytest.mark.parametrize("side", [64, 200])
def test_normals_of_a_plane(slope_x: float, slope_up: float, side: int) -> None:
    """A surface that rises towards the viewer to the right faces left; one that rises upwards faces down."""
    y, x = np.mgrid[:side, :side].astype(np.float32) / side
    near = (0.5 + slope_x * (x - 0.5) - slope_up * (y - 0.5)).astype(np.float32)
    found = normals(near, relief=2.0, background=0.0)[2:-2, 2:-2]
    expected = np.array([-2 * slope_x, -2 * slope_up, 1])
    assert np.allclose(found, expected / np.linalg.norm(expected), atol=1e-3)


def test_normals_agree_with_rendered_ones() -> None:
    """On a sphere: same quadrants as the renderer's convention, R right, G up, B towards the viewer."""
    y, x = np.mgrid[-1:1:129j, -1:1:129j].astype(np.float32)
    inside = x**2 + y**2 < 0.6
    near = np.sqrt(np.maximum(1 - x**2 - y**2, 0)).astype(np.float32)
    found = normals(near, relief=0.5, background=0.0)  # one radius is half a shorter side
    true = np.stack([x, -y, near], axis=2)
    assert np.sum(found * true, axis=2)[inside].min() > 0.995


def test_background_of_normals_is_flat() -> None:
    near = np.linspace(0, 1, 64, dtype=np.float32)[None].repeat(64, 0)
    found = normals(near, relief=4.0, background=0.5)
    assert np.array_equal(found[:, :30], np.broadcast_to([0, 0, 1], (64, 30, 3)))
    assert (found[:, 34:, 0] < -0.85).all()
