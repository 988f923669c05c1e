"""Measures of every condition: closed forms, pinned references, and real pictures at the top of each."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from pipeline import fidelity as f
from pipeline.conditions import get_condition, weight_free
from pipeline.conditions.base import safe_quantise, sample_rng
from pipeline.fidelity import annotator_of, fidelity, main_measure, matched_edges, measures_of, score
from pipeline.tabletop import render, sample_scene

RNG = np.random.default_rng(0)


def maps(count: int = 2, side: int = 32) -> np.ndarray:
    return RNG.integers(0, 256, (count, side, side, 3), np.uint8)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.stack([render(sample_scene(0, index), 64, 1).image for index in range(3)])


@pytest.mark.parametrize("name", weight_free())
@pytest.mark.slow
def test_real_pictures_obey_their_own_maps_best(name: str, pictures: np.ndarray) -> None:
    """Every condition without weights: what was extracted is given back, and another's map scores worse."""
    annotator = get_condition(name)
    params = [annotator.draw(sample_rng(1, name, str(i))) for i in range(len(pictures))]
    own = np.stack([f._colour(annotator.extract(p, q)) for p, q in zip(pictures, params, strict=True)])
    measured = fidelity(pictures, own, params, annotator)
    assert list(measured) == measures_of(annotator, 64)
    best = {"psnr": 100.0} | dict.fromkeys(f.LOWER_IS_BETTER, 0.0)
    for measure, values in measured.items():
        assert np.allclose(values, best.get(measure, 1.0), atol=2.0 if measure == "rmse" else 1e-6), measure
    true = score(pictures, own, params, annotator)
    other = score(pictures, np.roll(own, 1, 0), [params[-1], *params[:-1]], annotator)
    assert (true > other).all()


def test_a_coarsened_map_is_compared_with_a_coarsened_one(pictures: np.ndarray) -> None:
    annotator = get_condition("softedge")
    params = [annotator.draw(sample_rng(1, "softedge", str(i))) | {"safe": True} for i in range(len(pictures))]
    own = np.stack([f._colour(safe_quantise(annotator.extract(p, q))) for p, q in zip(pictures, params, strict=True)])
    assert np.allclose(fidelity(pictures, own, params, annotator)["ssim"], 1)


def largest_matching(x: np.ndarray, y: np.ndarray, radius: float) -> int:
    """By trying every assignment."""
    p, q = np.argwhere(x), np.argwhere(y)
    if len(p) > len(q):
        p, q = q, p
    near = np.linalg.norm(p[:, None] - q[None], axis=2) <= radius
    return max(int(near[np.arange(len(p)), list(order)].sum()) for order in permutations(range(len(q)), len(p)))


@pytest.mark.parametrize("seed", range(8))
def test_edges_are_matched_one_to_one_and_as_many_as_possible(seed: int) -> None:
    rng = np.random.default_rng(seed)
    side = 150  # .75 % of its diagonal is 1.59 px: the eight neighbours
    x, y = np.zeros((2, 1, side, side), bool)
    x[0, rng.integers(0, 4, 6), rng.integers(0, 4, 6)] = True
    y[0, rng.integers(0, 4, 7), rng.integers(0, 4, 7)] = True
    precision, recall, f1 = (float(v[0]) for v in matched_edges(x, y))
    count = largest_matching(x[0], y[0], 0.0075 * np.hypot(side, side))
    assert (precision, recall) == pytest.approx((count / x.sum(), count / y.sum()))
    assert f1 == pytest.approx(2 * precision * recall / (precision + recall) if count else 0)


def test_a_thick_line_is_not_matched_by_a_thin_one() -> None:
    """What one-to-one matching sees and free matching does not: precision falls with the line's width."""
    thin, thick = np.zeros((2, 1, 150, 150), bool)
    thin[0, :, 70], thick[0, :, 69:72] = True, True
    assert f.edge_f1(thick, thin, 2)[0] == 1
    assert matched_edges(thick, thin)[0][0] == pytest.approx(1 / 3)
    empty = np.zeros_like(thin)
    assert [v[0] for v in matched_edges(empty, empty)] == [1, 1, 1]
    assert [v[0] for v in matched_edges(empty, thin)] == [0, 0, 0]


@pytest.mark.slow
def test_the_ssim_family_is_that_of_torchmetrics() -> None:
    a, b = maps(2, 176), maps(2, 176)
    b = (0.7 * a + 0.3 * b).astype(np.uint8)
    x, y = (torch.from_numpy(m).permute(0, 3, 1, 2).double() for m in (a, b))
    for i in range(2):
        one = slice(i, i + 1)
        assert f.ssim(a, b)[i] == pytest.approx(
            float(structural_similarity_index_measure(x[one], y[one], data_range=255.0))  # type: ignore[arg-type]
        )
        assert f.ms_ssim(a, b)[i] == pytest.approx(
            float(multiscale_structural_similarity_index_measure(x[one], y[one], data_range=255.0))
        )
        assert f.psnr(a, b)[i] == pytest.approx(float(peak_signal_noise_ratio(x[one], y[one], data_range=255.0)))
    assert "ms_ssim" in measures_of(get_condition("softedge"), 176)
    assert "ms_ssim" not in measures_of(get_condition("softedge"), 128)


def test_errors_by_closed_form() -> None:
    a = np.full((1, 8, 8, 3), 100, np.uint8)
    assert f.rmse(a + np.uint8(30), a)[0] == 30
    assert f.scale_invariant(np.full_like(a, 200), a)[0] == pytest.approx(0)  # a constant factor is not seen
    up, right = (np.broadcast_to(np.array(c, np.uint8), (1, 8, 8, 3)) for c in ((127, 127, 255), (255, 127, 127)))
    assert f.angle(up, right)[0] == pytest.approx(90, abs=0.5)
    halves = a.copy()
    halves[:, :4] = 7
    assert f.miou(halves, a)[0] == pytest.approx((0.5 + 0) / 2)
    assert f.miou(a, a)[0] == 1
    white, black = np.full_like(a, 255), np.zeros_like(a)
    assert f.lab_error(white, black)[0] == pytest.approx(100, abs=0.01)  # L runs from 0 to 100
    assert f.colour_distance(halves, halves[:, ::-1])[0] == 0  # places do not count
    assert f.colour_distance(white, black)[0] == pytest.approx(100, abs=0.1)
    masked = a.copy()
    masked[:, :4] = 0
    changed = a.copy()
    changed[:, :4] = 250
    assert f.kept_rmse(changed, masked)[0] == 0  # what is filled in is free
    assert f.kept_rmse(a + np.uint8(10), masked)[0] == 10


def test_another_evaluator_measures_exact_maps(pictures: np.ndarray) -> None:
    exact = [{"given": True}] * len(pictures)
    assert annotator_of("depth", exact)[1] == (
        "the depth maps came with the source and no annotator for pictures is named"
    )
    named, reason = annotator_of("depth", exact, evaluator="softedge")
    assert named is not None and not reason
    targets = np.stack([f._colour(named.extract(p, named.draw(np.random.default_rng(0)))) for p in pictures])
    assert np.allclose(fidelity(pictures, targets, exact, named)["ssim"], 1)


def test_only_what_is_asked_for_is_computed(pictures: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    canny = get_condition("canny")
    params = [{"low": 100, "high": 200}] * len(pictures)
    own = np.stack([f._colour(canny.extract(p, params[0])) for p in pictures])
    monkeypatch.setattr(f, "_matched", lambda *_: pytest.fail("matched for nothing"))
    assert list(fidelity(pictures, own, params, canny, ("f1_2px",))) == ["f1_2px"]
    assert main_measure(canny) == "f1_2px"
    assert score(pictures, own, params, canny).tolist() == [1.0] * 3
