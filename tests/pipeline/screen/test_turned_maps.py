"""Exact maps of renders that are turned by a quarter, or mirrored along a diagonal, are found; right ones pass."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.conditions.base import SourceMap
from pipeline.screen.limits import PRESETS
from pipeline.screen.maps import screen_map
from pipeline.sources.base import Rejected
from pipeline.sources.tabletop import true_maps
from pipeline.tabletop import render, sample_scene

SCENES, SIDE = 25, 96


@pytest.fixture(scope="module")
def scenes() -> list[tuple[np.ndarray, dict[str, np.ndarray]]]:
    made = [render(sample_scene(11, i), SIDE) for i in range(SCENES)]
    return [(scene.image, true_maps(scene)) for scene in made]


def reason(image: np.ndarray, made: np.ndarray, name: str) -> str:
    try:
        screen_map(image, np.ascontiguousarray(made), SourceMap(name), PRESETS["default"])
    except Rejected as error:
        return f"{error.reason} {error.detail}"
    return ""


@pytest.mark.parametrize("name", ["depth", "normal", "segment"])
def test_turned_maps_are_found_and_right_ones_pass(
    scenes: list[tuple[np.ndarray, dict[str, np.ndarray]]], name: str
) -> None:
    alarms = [r for image, maps in scenes if (r := reason(image, maps[name], name))]
    assert len(alarms) <= 1, alarms
    assert not any("quarter" in alarm or "diagonal" in alarm for alarm in alarms), alarms
    for turn in (np.rot90, lambda m: np.rot90(m, -1), lambda m: m.transpose(1, 0, 2)):
        reasons = [reason(image, turn(maps[name]), name) for image, maps in scenes]
        assert sum(r.startswith("map_misaligned") for r in reasons) >= 0.8 * SCENES


def test_a_map_of_little_range_is_named_channel_by_channel() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    flat = np.full((64, 64, 3), (127, 127, 250), np.uint8)
    assert reason(image, flat, "normal").startswith("map_flat")
    flat[:, :32] = (127, 127, 255)
    assert reason(image, flat, "normal").startswith("map_flat")
    assert reason(image, np.full((64, 64), 9, np.uint8), "depth").startswith("map_empty")
