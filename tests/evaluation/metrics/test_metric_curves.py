from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from evaluation.metrics.curves import crossing, equivalence, interpolate, trend
from pipeline.contract.errors import CnlabError

SIZES = np.array([4, 16, 64, 256, 1024, 4096])
RNG = np.random.default_rng


def test_interpolation_is_linear_in_log_n() -> None:
    assert interpolate([4, 16], [[0.0, 1.0]], [8, 2, 99])[0] == pytest.approx([0.5, 0.0, 1.0])


def test_a_crossing_by_hand() -> None:
    found = crossing([4, 16], [[-1.0, 1.0]])
    assert found.value == pytest.approx(8, rel=0.005)
    assert (found.low, found.high, found.seeds) == (None, None, 1)
    # d(n) = x +- 1 with x from -40 to 40: |x| <= t sqrt(1 / 3) with sd 1
    found = crossing([1, np.e**80], np.array([[-41.0, 39.0], [-40, 40], [-39, 41]]))
    half = stats.t.ppf(0.975, 2) / np.sqrt(3)
    assert (found.low, found.high) == pytest.approx((np.exp(40 - half), np.exp(40 + half)), rel=0.25)


def test_beyond_the_measured_sizes_nothing_is_known() -> None:
    rising = np.linspace(-1, 1, 6) + RNG(0).normal(0, 0.01, (3, 6))
    assert crossing(SIZES, rising).high is not None
    never = crossing(SIZES, rising - 3)
    assert (never.value, never.low, never.reason) == (None, None, "below the level at all sizes")
    already = crossing(SIZES, rising + 3)
    assert (already.value, already.reason) == (None, "above the level at the smallest size")
    flat = crossing(SIZES, RNG(1).normal(0, 1, (3, 6)))
    assert flat.low is None or flat.high is None


def coverage(seeds: int, repetitions: int, noise: float = 0.02) -> float:
    """Of the size that reaches 95 % of the largest one's value; noise of seeds, half of it shared by the sizes."""
    truth = np.array([0.2, 0.4, 0.52, 0.60, 0.64, 0.65])
    level = 0.95 * truth[-1]
    at = float(np.exp(np.interp(level, truth, np.log(SIZES))))
    rng, hits = RNG(seeds), 0
    for _ in range(repetitions):
        y = truth + rng.normal(0, noise, (seeds, 6)) + rng.normal(0, noise, (seeds, 1))
        found = crossing(SIZES, y - 0.95 * y[:, -1:])
        hits += (found.low is None or found.low <= at) and (found.high is None or at <= found.high)
    return hits / repetitions


@pytest.mark.parametrize("seeds", [3, 5])
def test_how_many_images_is_covered(seeds: int) -> None:
    assert 0.90 <= coverage(seeds, 300) <= 0.99


@pytest.mark.proof
@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_how_many_images_is_covered_at_length(seeds: int) -> None:
    assert 0.93 <= coverage(seeds, 2000) <= 0.98


def test_trend_is_pages() -> None:
    rising = np.arange(6) + RNG(0).normal(0, 0.5, (4, 6))
    assert trend(rising) == pytest.approx(stats.page_trend_test(rising).pvalue)
    assert trend(rising) < 0.001
    assert trend(-rising) > 0.9
    with pytest.raises(CnlabError, match="at least 3"):
        trend(rising[:, :2])


def test_equivalence_holds_its_level_at_the_margin() -> None:
    rng = RNG(2)
    rejected = [equivalence(rng.normal(0.5, 0.1, 8), np.zeros(8), 0.5) < 0.05 for _ in range(600)]
    assert 0.02 <= np.mean(rejected) <= 0.08
    assert equivalence(rng.normal(0, 0.1, 8), np.zeros(8), 0.5) < 0.001
    assert equivalence([1.0, 1.0], [1.0, 1.0], 0.1) == 0
