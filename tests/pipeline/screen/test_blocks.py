"""JPEG damage behind another format: false alarms on clean files and recall, on disjoint crops of photographs."""

from __future__ import annotations

import io
from functools import cache

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.screen.images import blockiness
from pipeline.screen.limits import DEFAULT
from pipeline.sources.fill50k import Fill50k


@cache
def crops(side: int) -> tuple[np.ndarray, ...]:
    """Disjoint crops of scikit-image's photographs, at most 30 of each, empty ones left out."""
    from skimage import data

    taken = []
    for photo in (data.astronaut(), data.coffee(), data.chelsea(), data.rocket(), data.stereo_motorcycle()[0]):
        places = [
            (y, x) for y in range(0, photo.shape[0] - side + 1, side) for x in range(0, photo.shape[1] - side + 1, side)
        ]
        tiles = [photo[y : y + side, x : x + side] for y, x in places[:: max(1, len(places) // 30)]]
        taken += [np.ascontiguousarray(tile) for tile in tiles if tile.std() > 8]
    return tuple(taken)


def recoded(image: np.ndarray, form: str, quality: int) -> np.ndarray:
    out = io.BytesIO()
    Image.fromarray(image).save(out, form, quality=quality)
    return np.array(Image.open(out).convert("RGB"))


def share(pictures: list[np.ndarray]) -> float:
    return float(np.mean([blockiness(picture) > DEFAULT["max_blockiness"] for picture in pictures]))


@pytest.mark.slow
@pytest.mark.parametrize("side", [64, 128])
@pytest.mark.parametrize("smooth", [False, True])
def test_at_most_one_in_a_hundred_clean_pictures_and_at_least_nine_in_ten_damaged_ones(side: int, smooth: bool) -> None:
    pictures = [cv2.GaussianBlur(p, (0, 0), 2) if smooth else p for p in crops(side)]
    assert len(pictures) > 60
    clean = [recoded(p, form, quality) for form in ("JPEG", "WEBP") for quality in (85, 92) for p in pictures]
    assert share(clean + pictures) <= 0.01
    assert share([recoded(p, "JPEG", 10) for p in pictures]) >= 0.9


def test_graphics_and_pictures_without_anything_are_no_damage() -> None:
    source = Fill50k(1, 128)
    assert share([source.load(key).image for key in source.keys()[:20]]) == 0
    ring = np.zeros((256, 256, 3), np.uint8)
    cv2.circle(ring, (120, 130), 90, (200, 30, 60), cv2.FILLED)  # jagged, of two colours
    assert blockiness(ring) < DEFAULT["max_blockiness"]
    ramp = np.tile(np.linspace(20, 220, 256), (256, 1)).astype(np.uint8)
    for grey in (ramp, np.full((256, 256), 90, np.uint8), np.zeros((64, 64), np.uint8)):
        assert blockiness(np.repeat(grey[..., None], 3, 2)) == 0
