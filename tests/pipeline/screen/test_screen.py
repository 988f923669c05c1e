from __future__ import annotations

import io
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from photos import clean_photos
from PIL import Image

from pipeline.conditions import get_condition, weight_free
from pipeline.conditions.base import SourceMap, safe_quantise, sample_rng
from pipeline.contract.errors import CnlabError
from pipeline.contract.schema import FIGURES
from pipeline.screen.captions import screen_caption
from pipeline.screen.images import blockiness, border_share, figures, screen_image, screen_raw
from pipeline.screen.leak import leak
from pipeline.screen.limits import DEFAULT, PRESETS, resolve_limits
from pipeline.screen.maps import alignment, screen_map
from pipeline.screen.thumbs import thumbnail
from pipeline.sources.base import Raw, Rejected
from pipeline.sources.tabletop import true_maps
from pipeline.tabletop import render, sample_scene

LIMITS = PRESETS["default"]
Picture = np.ndarray
N = 30


def jpeg(picture: Picture, quality: int) -> Picture:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=quality)
    return np.array(Image.open(out))


def grey(p: Picture) -> Picture:
    return jpeg(np.repeat(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY)[..., None], 3, 2), 85)


def sepia(p: Picture) -> Picture:
    light = cv2.cvtColor(p, cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None]
    return (light * np.array([1.0, 0.88, 0.7], np.float32)).astype(np.uint8)


def blur(p: Picture) -> Picture:
    return jpeg(cv2.GaussianBlur(p, (0, 0), 3), 90)


def letterbox(p: Picture) -> Picture:
    side, bar = p.shape[0], p.shape[0] // 8
    out = np.full_like(p, 7)
    out[bar:-bar] = cv2.resize(p, (side, side - 2 * bar), interpolation=cv2.INTER_AREA)
    return jpeg(out, 80)


def frame(p: Picture) -> Picture:
    out = p.copy()
    for edge in (out[:12], out[-12:], out[:, :12], out[:, -12:]):
        edge[:] = 250
    return out


def flat(p: Picture) -> Picture:
    return (p // 64 + 100).astype(np.uint8)


def burnt(p: Picture) -> Picture:
    return np.clip(p.astype(np.int32) * 8, 0, 255).astype(np.uint8)


def reason_of(image: Picture, limits: dict[str, float] = LIMITS) -> str:
    raw = Raw("k", image, {}, image.shape[1], image.shape[0])
    try:
        screen_raw(raw, limits)
        screen_image(image, raw.facts, figures(image), limits)
    except Rejected as error:
        assert error.detail
        return error.reason
    return ""


def test_clean_photographs_pass() -> None:
    photos = [*clean_photos(200, 256), *clean_photos(60, 128, seed=1)]
    alarms = [r for p in photos if (r := reason_of(p))]
    assert len(alarms) <= len(photos) // 100, alarms


@pytest.mark.parametrize(
    ("fault", "reason", "least"),
    [
        (grey, "greyscale", N - 1), (sepia, "greyscale", N), (blur, "blur", N - 1), (letterbox, "border", N - 4),
        (frame, "border", N - 2), (flat, "uniform", N), (burnt, "exposure", N - 8),
        (lambda p: jpeg(p, 8), "jpeg_damage", N - 2),
    ],
)  # fmt: skip
def test_planted_faults_are_named(fault: Callable[[Picture], Picture], reason: str, least: int) -> None:
    found = [reason_of(fault(p)) for p in clean_photos(N, 256, seed=2)]
    assert found.count(reason) >= least, found
    assert reason_of(fault(clean_photos(1, 256)[0]), PRESETS["off"]) == ""


def test_a_blurred_background_is_no_fault() -> None:
    for photo in clean_photos(10, 256, seed=3):
        sharp = np.zeros((256, 256, 1), np.float32)
        sharp[40:216, 40:216] = 1
        sharp = cv2.GaussianBlur(sharp, (0, 0), 8)[..., None]
        soft = (photo * sharp + cv2.GaussianBlur(photo, (0, 0), 5) * (1 - sharp)).astype(np.uint8)
        assert reason_of(soft) == ""


def test_low_jpeg_quality_is_read_from_the_tables() -> None:
    photo = clean_photos(1, 256)[0]
    with pytest.raises(Rejected, match="jpeg_damage"):
        screen_raw(Raw("k", photo, {}, 2000, 1500, facts={"jpeg_quality": 9}), LIMITS)
    screen_raw(Raw("k", photo, {}, 2000, 1500, facts={"jpeg_quality": 60}), LIMITS)


@pytest.mark.parametrize(("size", "reason"), [((63, 200), "too_small"), ((100, 301), "aspect")])
def test_size_and_aspect(size: tuple[int, int], reason: str) -> None:
    with pytest.raises(Rejected, match=reason):
        screen_raw(Raw("k", np.zeros((*size, 3), np.uint8), {}, size[1], size[0]), LIMITS)


def test_figures_are_finite_for_any_picture() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    odd = [np.zeros((64, 64, 3), np.uint8), np.full((512, 512, 3), 255, np.uint8), noise]
    for image in odd:
        found = figures(image)
        assert tuple(found) == FIGURES
        assert all(np.isfinite(v) for v in found.values())
        assert np.isfinite(blockiness(image))


def test_border_needs_two_sides_and_a_step() -> None:
    photo = cv2.cvtColor(clean_photos(1, 128)[0], cv2.COLOR_RGB2GRAY)
    assert border_share(photo) == 0
    one = photo.copy()
    one[:20] = 0
    assert border_share(one) == 0
    one[-20:] = 0
    assert border_share(one) == pytest.approx(40 / 128, abs=0.02)
    fade = np.repeat(np.linspace(0, 250, 128, dtype=np.uint8)[:, None], 128, 1)
    assert border_share(fade) == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "caption_empty"), ("  \n", "caption_empty"), ("ab", "caption_empty"), ("a" * 2001, "caption_too_long"),
        ("IMG_1234", "caption_not_text"), ("DSC00042.JPG", "caption_not_text"),
        ("2021-03-04 12.30.01", "caption_not_text"),
        ("9f86d081884c7d659a2feaa0c55ad015", "caption_not_text"), ("https://example.org/a.jpg", "caption_not_text"),
        ("a cat <b>on</b> a mat", "caption_not_text"), ("caf\ufffd au lait", "caption_not_text"),
        ("$$$ 50% !!! 123 456", "caption_not_text"), ("cat cat cat cat cat cat cat", "caption_not_text"),
    ],
)  # fmt: skip
def test_captions_that_are_none(text: str, reason: str) -> None:
    with pytest.raises(Rejected) as error:
        screen_caption(text, LIMITS)
    assert error.value.reason == reason
    screen_caption(text, PRESETS["off"])


@pytest.mark.parametrize(
    "text",
    ["a cat", "Кот на коврике", "一只猫坐在垫子上", "a 1960s photo of 3 men & 2 dogs", "قطة على سجادة", "P. is at home",
     "image of a dog", "photo", "Two people, one in a red coat; behind them: the sea."],
)  # fmt: skip
def test_captions_in_any_script_pass(text: str) -> None:
    if text == "photo":
        with pytest.raises(Rejected):
            screen_caption(text, LIMITS)
    else:
        screen_caption(text, LIMITS)


def test_maps_of_every_extractor_pass() -> None:
    for name in weight_free():
        condition = get_condition(name)
        alarms = []
        for i, photo in enumerate(clean_photos(40, 128, seed=4)):
            made = condition.extract(photo, condition.draw(sample_rng(1, name, str(i))))
            try:
                screen_map(photo, made, condition, LIMITS)
            except Rejected as error:
                alarms.append(error.detail)
        assert len(alarms) == 0, (name, alarms)


def test_sick_maps_are_named() -> None:
    photo = clean_photos(1, 128)[0]
    canny, given = get_condition("canny"), SourceMap("depth")
    edges = canny.extract(photo, {"low": 80, "high": 160})
    for made, condition, reason in (
        (edges[:120], canny, "map_size"), (0 * edges, canny, "map_empty"), (255 - edges, canny, "map_saturated"),
        (255 - get_condition("softedge").extract(photo, get_condition("softedge").draw(sample_rng(1, "softedge", "k"))),
         get_condition("softedge"), "map_inverted"),
        (np.full((128, 128, 3), 9, np.uint8), given, "map_empty"),
    ):  # fmt: skip
        with pytest.raises(Rejected) as error:
            screen_map(photo, made, condition, LIMITS)
        assert error.value.reason == reason


@pytest.mark.slow
def test_given_maps_of_other_places_are_found_and_right_ones_pass() -> None:
    renders = [render(sample_scene(1, i), 128) for i in range(100)]

    def verdicts(name: str, change: Callable[[int, Picture], Picture]) -> int:
        found = 0
        for i, made in enumerate(renders):
            try:
                screen_map(made.image, np.ascontiguousarray(change(i, true_maps(made)[name])), SourceMap(name), LIMITS)
            except Rejected as error:
                assert error.reason == "map_misaligned"
                found += 1
        return found

    for name, least in (("segment", 90), ("normal", 80), ("depth", 60)):
        assert verdicts(name, lambda _, m: m) <= 2
        assert verdicts(name, lambda _, m: np.roll(m, (10, 10), (0, 1))) >= least
        assert verdicts(name, lambda _, m: m[:, ::-1]) >= least - 5
        assert verdicts(name, lambda i, m, name=name: true_maps(renders[i - 1])[name]) >= 35  # type: ignore[misc]


def test_alignment_is_one_in_place_for_the_picture_itself() -> None:
    photo = clean_photos(1, 128)[0]
    here, elsewhere, _ = alignment(photo, photo)
    assert here == pytest.approx(1, abs=1e-3)
    assert elsewhere < 0.8
    assert alignment(photo, np.zeros_like(photo))[0] == 0


def test_leak_finds_what_is_hidden_and_quantising_removes_it() -> None:
    images = np.stack(clean_photos(24, 128, seed=5))
    shade = np.stack([cv2.cvtColor(i, cv2.COLOR_RGB2GRAY) for i in images])
    edges = np.stack([cv2.Canny(i, 100, 200) for i in images])
    hidden = np.maximum(edges // 2, (shade.astype(np.int32) * 24 // 255).astype(np.uint8))
    whole, none = leak(images, shade), leak(images, np.zeros_like(shade))
    assert whole.r2 > 0.95
    assert none.r2 < 0.01
    found = leak(images, hidden)
    assert found.r2 > 0.6
    assert found.interval[0] < found.r2 < found.interval[1]
    assert found.n == 24
    assert leak(images, np.stack([safe_quantise(h) for h in hidden])).r2 < 0.05
    assert leak(images, hidden) == found


def test_limits_are_named_and_checked() -> None:
    assert resolve_limits("default", {"min_side": 10})["min_side"] == 10
    assert all(p.keys() == DEFAULT.keys() for p in PRESETS.values())
    with pytest.raises(CnlabError, match="unknown threshold sharpnes"):
        resolve_limits("default", {"sharpnes": 1})
    with pytest.raises(CnlabError, match="unknown screen"):
        resolve_limits("lenient", {})


def test_thumbnail_is_small() -> None:
    data = thumbnail(clean_photos(1, 256)[0])
    assert Image.open(io.BytesIO(data)).size == (64, 64)
    assert len(data) < 4000
