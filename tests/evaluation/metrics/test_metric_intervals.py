from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from evaluation.metrics.clip_score import clip_scores
from evaluation.metrics.intervals import (
    Estimate,
    holm,
    mean_interval,
    paired_difference,
    resolution,
    seed_difference,
    seed_interval,
    variance_table,
)
from evaluation.metrics.normalised import normalised_score
from pipeline.contract.errors import CnlabError

RNG = np.random.default_rng


def width(found: Estimate) -> float:
    assert found.low is not None
    assert found.high is not None
    return found.high - found.low


def test_mean_interval_is_students_for_normal_data() -> None:
    x = RNG(0).normal(size=200)
    found = mean_interval(x)
    assert found.value == pytest.approx(x.mean())
    assert width(found) == pytest.approx(2 * 1.96 * x.std(ddof=1) / np.sqrt(200), rel=0.08)
    assert found == mean_interval(x)


def test_mean_interval_covers_the_truth_as_often_as_it_says() -> None:
    hits = 0
    for seed in range(200):
        found = mean_interval(RNG(seed).exponential(size=60), resamples=400)
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 1 <= found.high
    assert 0.89 <= hits / 200 <= 0.99  # nominal 0.95, standard error 0.015, skewed data


def test_constant_and_single_values() -> None:
    assert mean_interval([2.0, 2.0, 2.0]) == Estimate(2.0, 2.0, 2.0, 3)
    assert mean_interval([2.0]) == Estimate(2.0, None, None, 1)


@pytest.mark.parametrize(
    ("values", "said"), [([], "0 samples"), ([1, np.nan], "sample 1 is not finite"), ([[1]], "shape")]
)
def test_bad_values_get_one_line(values: list[float], said: str) -> None:
    with pytest.raises(CnlabError, match=said):
        mean_interval(values)


def test_pairing_removes_what_is_common() -> None:
    scene = RNG(0).normal(0, 5, size=100)
    a, b = scene + RNG(1).normal(1, 0.1, 100), scene + RNG(2).normal(0, 0.1, 100)
    found = paired_difference(a, b)
    assert found.value == pytest.approx((a - b).mean())
    assert width(found) < width(mean_interval(a)) / 10
    with pytest.raises(CnlabError, match="paired"):
        paired_difference(a, b[:-1])


def test_seeds_have_the_t_interval_and_the_paired_t_test() -> None:
    values, other = [0.31, 0.35, 0.30, 0.38], [0.30, 0.31, 0.28, 0.33]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    found = seed_interval(values)
    assert (found.value, found.low, found.high, found.n) == pytest.approx((np.mean(values), low, high, 4))
    assert seed_interval([0.3]) == Estimate(0.3, None, None, 1)
    test = stats.ttest_rel(values, other)
    difference = seed_difference(values, other)
    assert difference.p == pytest.approx(test.pvalue)
    assert (difference.low, difference.high) == pytest.approx(tuple(test.confidence_interval()))


def test_holm_by_hand() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_below_resolution_is_what_seeds_do_alone() -> None:
    rng, hits = RNG(4), 0
    for _ in range(300):
        cells = rng.normal(size=(4, 3))
        limit = resolution(list(cells))
        assert limit is not None
        hits += abs(float(np.subtract(*rng.normal(size=2)))) < limit
    assert 0.91 <= hits / 300 <= 0.99
    assert resolution([[1.0], [2.0]]) is None
    assert resolution([[1.0, 2.0]], runs=1) == pytest.approx(12.706 * 0.5**0.5, rel=1e-4)


def test_variance_components_return() -> None:
    """Noise belongs to a sample's group, whatever the seed: nested, not a fourth thing that all samples share."""
    rng = RNG(5)
    seeds, noise, samples = rng.normal(0, 0.5, 200), rng.normal(0, 0.3, (60, 80)), rng.normal(0, 1.0, 80)
    x = seeds[:, None, None] + noise + samples + rng.normal(0, 0.2, (200, 60, 80))
    table = variance_table(x)
    assert table.seed == pytest.approx(np.var(seeds, ddof=1), rel=0.01)
    assert table.sample == pytest.approx(np.var(samples, ddof=1), rel=0.02)
    assert table.group == pytest.approx(0.09, rel=0.05)
    assert table.residual == pytest.approx(0.04, rel=0.01)
    one = variance_table(x[:, :1])
    assert (one.group, one.sample) == (0, pytest.approx(np.var(samples + noise[0], ddof=1), rel=0.02))
    with pytest.raises(CnlabError, match="two of each"):
        variance_table(x[:1])


def test_normalised_score_ends_and_middle() -> None:
    floor, ceiling = RNG(0).uniform(0.1, 0.3, 50), RNG(1).uniform(0.7, 0.9, 50)
    assert normalised_score(floor, floor, ceiling) == Estimate(0.0, 0.0, 0.0, 50)
    top = normalised_score(ceiling, floor, ceiling)
    assert (top.value, top.low, top.high) == (1.0, 1.0, 1.0)
    middle = normalised_score(floor + 0.25 * (ceiling - floor), floor, ceiling)
    assert middle.value == pytest.approx(0.25)
    assert width(middle) == pytest.approx(0, abs=1e-12)  # perfectly paired: nothing left to vary


@pytest.mark.slow
def test_normalised_score_covers_the_truth() -> None:
    hits = 0
    for seed in range(150):
        rng = RNG(seed)
        scene = rng.normal(0, 0.1, 60)
        value, floor, ceiling = (mean + scene + rng.normal(0, 0.1, 60) for mean in (0.5, 0.2, 0.8))
        found = normalised_score(value, floor, ceiling)
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 0.5 <= found.high
    assert 0.88 <= hits / 150 <= 0.99


def test_normalised_score_needs_a_scale() -> None:
    with pytest.raises(CnlabError, match="not above the floor"):
        normalised_score([0.5, 0.5], [0.8, 0.8], [0.8, 0.7])


def test_clip_scores_by_hand() -> None:
    images, texts = [[1.0, 0.0], [2.0, 0.0], [1.0, 0.0]], [[3.0, 0.0], [1.0, 1.0], [-1.0, 0.0]]
    assert clip_scores(images, texts) == pytest.approx([100, 100 / np.sqrt(2), 0])


def test_clip_scores_ignore_lengths_and_refuse_none() -> None:
    x, y = RNG(0).normal(size=(2, 5, 8))
    assert clip_scores(3 * x, y) == pytest.approx(clip_scores(x, 7 * y))
    with pytest.raises(CnlabError, match="sample 2 has an embedding of length 0"):
        clip_scores(np.where(np.arange(5)[:, None] == 2, 0, x), y)
    with pytest.raises(CnlabError, match="paired"):
        clip_scores(x, y[:3])
