"""Curves that have not converged, that fall, that rise twice, or that had risen before their first point."""

from __future__ import annotations

import re

import numpy as np
import pytest
from convergence_curves import STEPS, sudden
from scipy.special import expit

from trainer.convergence.detect import detect


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0])
def test_a_constant_curve_has_not_converged(value: float) -> None:
    found = detect(STEPS, np.full(30, value))
    assert not found.converged
    assert "never rose" in found.reason


@pytest.mark.parametrize("at", [0, 13, 29])
@pytest.mark.parametrize("size", [10, 100])
def test_one_outlier_is_not_convergence(at: int, size: float) -> None:
    values = np.random.default_rng(6).normal(size=30)
    values[at] += size * (-1 if at == 0 else 1)
    found = detect(STEPS, values)
    assert not found.converged, found
    assert "but for one point" in found.reason


def test_curves_cut_before_or_in_their_rise_have_not_converged() -> None:
    rng = np.random.default_rng(7)
    values = 1 / (1 + 81 ** -((STEPS - 2000) / 800)) + 0.05 * rng.normal(size=30)
    assert detect(STEPS, values).converged
    for last in range(1, 20):  # the midpoint is at the twentieth
        assert not detect(STEPS[:last], values[:last]).converged
    assert "has not levelled off" in detect(STEPS[:20], values[:20]).reason.replace("and not", "and has not")


def test_a_fall_is_not_convergence() -> None:
    steps, values, _ = sudden(np.random.default_rng(8))
    found = detect(steps, -values)
    assert not found.converged
    assert "falls" in found.reason


def test_fidelity_that_falls_has_not_converged() -> None:
    noise, errors = np.random.default_rng(20).normal(size=30), np.ones(30)
    up, down = 20.0 * (STEPS > 850), 20.0 * (STEPS > 2050)
    for given in (errors, None):
        found = detect(STEPS, up - down + noise, given)
        assert not found.converged
        assert "rose at step 85" in found.reason
        assert "fell at 205" in found.reason
    # high from the first point on: by the errors it had risen, and it has not stayed
    falling = 20 - 12 * (STEPS > 1550) + noise
    assert detect(STEPS, 20 + noise, errors).converged
    found = detect(STEPS, falling, errors)
    assert not found.converged
    assert re.search(r"falls, from (19\.\d|20) to [78]", found.reason)
    # a lesser fall has not levelled off
    found = detect(STEPS, up - 0.25 * down + noise, errors)
    assert "to 19.7, and fell at 205" in found.reason
    assert not found.converged
    assert detect(STEPS, up + noise, errors).converged


@pytest.mark.parametrize("width", [0.0, 600.0])
def test_a_curve_that_is_high_from_the_start_and_loses_most_has_not_converged(width: float) -> None:
    """In one of ten such curves the last three points alone say that less than half was lost."""
    rng, steps = np.random.default_rng(23), 100.0 * np.arange(1, 41)
    lost = 6.0 * (steps > 1250) if width == 0 else 6 * expit(4.4 * (steps - 1250) / width)
    for _ in range(25):
        noise = rng.normal(size=40)
        fallen = detect(steps, 10 - lost + noise, np.ones(40))
        assert not fallen.converged, fallen.reason
        assert "falls, from " in fallen.reason
        assert detect(steps, 10 - lost / 3 + noise, np.ones(40)).converged


def test_a_straight_fall_is_not_called_a_climb() -> None:
    falling = detect(STEPS, 20 - STEPS / 150 + 0.1 * np.random.default_rng(24).normal(size=30))
    assert "the curve falls" in falling.reason


@pytest.mark.parametrize(("parts", "step"), [((12, 8), 850), ((8, 12), 2050)])
def test_two_rises_are_both_named_and_the_greater_dates_the_convergence(parts: tuple[int, int], step: int) -> None:
    noise = np.random.default_rng(21).normal(size=30)
    values = parts[0] * (STEPS > 850) + parts[1] * (STEPS > 2050) + noise
    for errors in (np.ones(30), None):
        found = detect(STEPS, values, errors)
        assert found.converged
        assert "two rises, at steps 85" in found.reason
        assert found.step is not None
        assert abs(found.step - step) <= 50
        assert found.interval is not None
        assert found.interval[0] <= step <= found.interval[1] <= found.interval[0] + 100
        assert found.before == pytest.approx(0, abs=1)
        assert found.after == pytest.approx(20, abs=1)


def test_one_rise_is_never_two() -> None:
    rng = np.random.default_rng(22)
    for width in (1, 300, 600):
        for _ in range(20):
            values = 10 * expit(4.4 * (STEPS - 1500) / width) + rng.normal(size=30)
            assert "two rises" not in detect(STEPS, values, np.ones(30)).reason


def test_a_rise_within_the_errors_or_below_the_least_that_counts_is_refused() -> None:
    values = np.where(STEPS > 1500, 0.1, 0.0) + 0.001 * np.random.default_rng(9).normal(size=30)
    assert detect(STEPS, values, np.full(30, 0.02)).converged
    within = detect(STEPS, values, np.full(30, 0.05))
    assert not within.converged
    assert "within its noise" in within.reason
    assert not detect(STEPS, values, least=0.2).converged
    assert detect(STEPS, values, least=0.05).converged


def test_too_few_points_are_said() -> None:
    for count in range(6):
        found = detect(STEPS[:count], np.arange(count), np.ones(count))
        assert not found.converged
        assert f"{count} points" in found.reason


def test_a_curve_that_had_risen_before_its_first_point_says_so() -> None:
    values = 0.5 + 0.02 * np.random.default_rng(10).normal(size=30)
    found = detect(STEPS, values, np.full(30, 0.02))
    assert found.converged
    assert found.interval == (0, 100)
    assert "already risen" in found.reason
    assert not detect(STEPS, values).converged  # without errors nothing tells it from a floor of 0.5
    assert not detect(STEPS, values, np.full(30, 0.02), floor=0.5).converged
    assert not detect(STEPS, values, np.full(30, 0.02), least=0.6).converged


def test_the_value_at_step_0_is_the_floor() -> None:
    steps = np.concatenate([[0], STEPS])
    flat = 0.3 + 0.02 * np.random.default_rng(11).normal(size=31)
    assert not detect(steps, flat, np.full(31, 0.02)).converged
    found = detect(steps, np.concatenate([[0.0], flat[1:]]), np.full(31, 0.02))
    assert found.converged
    assert found.interval == (0, 100)
