from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sources.tabletop import Tabletop
from pipeline.tabletop import render, sample_scene
from pipeline.tabletop.render import FAR
from pipeline.tabletop.scene import COLORS, FLOORS, LOOK_AT, SHAPES, camera_axes, in_frame
from pipeline.tabletop.shapes import INTERSECT


def implicit(shape: str, p: np.ndarray, r: float, h: float) -> float:
    """Zero on the surface of the shape, in its own frame."""
    x, y, z = p
    if shape == "sphere":
        return (x / r) ** 2 + (y / r) ** 2 + (z / h) ** 2 - 1
    if shape == "cube":
        return max(abs(x) / r, abs(y) / r, abs(z) / h) - 1
    if shape == "cylinder":
        return max(np.hypot(x, y) / r, abs(z) / h) - 1
    across = np.hypot(x, y) if shape == "cone" else max(abs(x), abs(y))
    return max(across / r - (h - z) / (2 * h), -z / h - 1)


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_rays_meet_the_surface_and_normals_face_outwards(shape: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    r, h = rng.uniform(0.3, 0.7, 2)
    o = rng.normal(size=(3, 64))
    o = (4 * o / np.linalg.norm(o, axis=0)).astype(np.float32)
    aim = rng.uniform(-0.4, 0.4, (3, 64)).astype(np.float32)
    d = (aim - o) / np.linalg.norm(aim - o, axis=0)
    t, normal = INTERSECT[shape](o, d.astype(np.float32), float(r), float(h))
    hit = np.isfinite(t)
    assert hit.any()
    points = o + d * np.where(hit, t, 0)
    for i in np.flatnonzero(hit):
        assert abs(implicit(shape, points[:, i], r, h)) < 2e-2  # float32, and steep near a tip
        assert normal[:, i] @ d[:, i] < 1e-3
        assert np.linalg.norm(normal[:, i]) == pytest.approx(1, abs=1e-3)
    for i in np.flatnonzero(~hit):  # a miss really stays outside
        along = o[:, i, None] + d[:, i, None] * np.linspace(2, 6, 400)
        assert min(implicit(shape, along[:, k], r, h) for k in range(0, 400, 4)) > -1e-2


def test_a_sample_depends_on_seed_and_index_alone() -> None:
    first = [render(sample_scene(3, i), 64).image for i in (5, 6)]
    again = [render(sample_scene(3, i), 64).image for i in (6, 5)][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], render(sample_scene(4, 5), 64).image)


def test_captions_are_true() -> None:
    for i in range(200):
        scene = sample_scene(11, i)
        assert f"on a {scene.floor} floor" in scene.caption
        for solid in scene.solids:
            assert f"a {solid.phrase}" in scene.caption
        assert sum(scene.caption.count(f" {s}") for s in SHAPES) == len(scene.solids)
        assert all(in_frame(t, scene.azimuth, scene.elevation, scene.distance) for t in scene.solids)


def test_left_and_right_are_those_of_the_picture() -> None:
    seen = 0
    for i in range(400):
        scene = sample_scene(12, i)
        for side in ("left", "right"):
            first, _, second = scene.caption.partition(f" to the {side} of ")
            if not second or scene.solids[0].phrase == scene.solids[1].phrase:
                continue
            across = {}
            for k, solid in enumerate(scene.solids):
                columns = np.flatnonzero((render(scene, 64, 1).instance == k + 2).any(0))
                across[solid.phrase] = columns.mean()
            other = next(p for p in across if p in second)
            seen += 1
            assert (across[first.removeprefix("a ")] < across[other]) == (side == "left")
        if seen >= 12:
            return
    raise AssertionError("too few captions with sides")


def test_every_object_shows_in_the_maps() -> None:
    for i in range(40):
        scene = sample_scene(13, i)
        made = render(scene, 128)
        for k, solid in enumerate(scene.solids):
            inside = made.instance == k + 2
            assert inside.sum() > 40, (i, scene.caption)
            assert set(np.unique(made.segment[inside])) == {2 + SHAPES.index(solid.shape)}
        lengths = np.linalg.norm(made.normal, axis=2)
        assert np.allclose(lengths[made.instance > 0], 1, atol=1e-3)
        assert (made.depth[made.instance == 0] == FAR).all()
        assert made.image.shape == (128, 128, 3)
        assert made.image.dtype == np.uint8


def test_floor_depth_is_exact() -> None:
    """Behind a floor pixel, camera geometry gives the depth in closed form."""
    scene = sample_scene(1, 0)
    made = render(scene, 64, 1)
    y, x = np.argwhere(made.instance == 1)[-1]
    half = np.tan(0.70 / 2)
    u, v = ((x + 0.5) / 64 * 2 - 1) * half, -((y + 0.5) / 64 * 2 - 1) * half
    axes = camera_axes(scene.azimuth, scene.elevation).astype(float)
    origin = LOOK_AT + axes[2] * scene.distance
    direction = axes.T @ np.array([u, v, -1.0])
    assert made.depth[y, x] == pytest.approx(-origin[2] / direction[2], rel=1e-4)


def test_worlds_are_varied() -> None:
    scenes = [sample_scene(1, i) for i in range(300)]
    assert {s.floor for s in scenes} == set(FLOORS)
    assert {t.color for s in scenes for t in s.solids} == set(COLORS)
    assert {len(s.solids) for s in scenes} == {1, 2, 3}
    assert len({s.caption for s in scenes}) > 280
    hashes = {hashlib.sha256(render(s, 32, 1).image.tobytes()).hexdigest() for s in scenes[:50]}
    assert len(hashes) == 50


def test_source_gives_true_maps() -> None:
    sample = Tabletop(1, 64).load("tabletop-1-000007")
    assert set(sample.maps) == set(Tabletop.own_maps)
    assert all(m.shape == (64, 64, 3) and m.dtype == np.uint8 for m in sample.maps.values())
    assert sample.captions == {"template": sample_scene(1, 7).caption}
