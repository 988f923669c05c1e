from __future__ import annotations

import numpy as np
import pytest

from evaluation.metrics.mind import mind_difference, mind_distance, mind_estimate, mind_set_distance

RNG = np.random.default_rng


def direct(x: np.ndarray, y: np.ndarray, projections: int, seed: int) -> float:
    """The published definition for sets of equal size: sorted projections, pair by pair."""
    directions = RNG(seed).normal(size=(projections, x.shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    p, q = np.sort(x @ directions.T, axis=0), np.sort(y @ directions.T, axis=0)
    return float(3 * x.shape[1] * np.square(p - q).mean())


def test_the_published_definition() -> None:
    x, y = RNG(0).normal(size=(40, 6)), RNG(1).normal(0.4, 1.3, size=(40, 6))
    assert mind_distance(x, y, 50, 7) == pytest.approx(direct(x, y, 50, 7), rel=1e-12)


def test_closed_forms() -> None:
    x = RNG(0).normal(size=(30, 5))
    shift = RNG(1).normal(size=5)
    assert mind_distance(x, x) == 0
    # mean over directions of (u . s)^2 is |s|^2 / D, so 3 D of it is 3 |s|^2
    assert mind_distance(x, x + shift, 20_000) == pytest.approx(3 * shift @ shift, rel=0.05)
    one = mind_distance([[0.0], [1.0]], [[0.0], [1.0], [2.0]])  # quantiles differ on thirds: 0, (1/6) 1 + (1/6) 0, 1
    assert one == pytest.approx(3 * (1 / 6 + 1 / 3))


def test_invariants_and_unequal_sizes() -> None:
    x, y = RNG(0).normal(size=(30, 6)), RNG(1).normal(0.4, 1, size=(45, 6))
    value = mind_distance(x, y)
    assert mind_distance(y, x) == pytest.approx(value, rel=1e-12)
    assert mind_distance(RNG(2).permutation(x), y) == pytest.approx(value, rel=1e-12)
    assert mind_distance(np.repeat(x, 2, axis=0), np.repeat(y, 2, axis=0)) == pytest.approx(value, rel=1e-12)
    values = [mind_distance(x, x + level * RNG(3).normal(size=x.shape)) for level in (0.1, 0.5, 2.0)]
    assert values == sorted(values)


def test_jackknife_values_of_a_shift_are_its_potential() -> None:
    x, shift = RNG(0).normal(size=(40, 4)), np.array([0.5, -1.0, 0.2, 0.0])
    distance = mind_set_distance(x, x + shift, 20_000)  # T(t) = t + u.s, so the potential is -2 (u.s) (u.x)
    assert distance.of_x == pytest.approx(-6 * (x - x.mean(axis=0)) @ shift, rel=0.1, abs=0.3)
    assert distance.of_y == pytest.approx(-distance.of_x, rel=1e-6)


def test_interval_has_the_spread_of_fresh_samples() -> None:
    def estimate(seed: int) -> tuple[float, float]:
        rng = RNG(seed)
        found = mind_set_distance(rng.normal(size=(80, 5)), rng.normal(0.5, 1.2, size=(80, 5)), 60)
        high = found.estimate().high
        assert high is not None
        return found.value, (high - found.value) / 1.99

    values, errors = np.array([estimate(seed) for seed in range(60)]).T
    assert 0.75 < errors.mean() / values.std(ddof=1) < 1.35


def test_a_difference_drops_what_both_share() -> None:
    x, y = RNG(0).normal(size=(2, 100, 6))
    near, far = y + 0.2 * RNG(1).normal(size=y.shape), y + 0.3 * RNG(2).normal(size=y.shape)
    difference, apart = mind_difference(near, far, x), mind_estimate(near, x)
    assert difference.value == pytest.approx(mind_distance(near, x) - mind_distance(far, x))
    assert difference.high is not None
    assert apart.high is not None
    assert difference.high - difference.value < 0.6 * (apart.high - apart.value)
