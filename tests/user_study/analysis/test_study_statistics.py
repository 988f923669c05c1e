from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta, binom

from user_study.analysis import statistics as st


@pytest.mark.parametrize(("wins", "n"), [(0, 10), (3, 10), (10, 10), (52, 100), (1, 2)])
def test_clopper_pearson_is_the_beta_quantile(wins: int, n: int) -> None:
    low, high = st.clopper_pearson(wins, n)
    assert low == pytest.approx(0 if wins == 0 else beta.ppf(0.025, wins, n - wins + 1), abs=1e-9)
    assert high == pytest.approx(1 if wins == n else beta.ppf(0.975, wins + 1, n - wins), abs=1e-9)


def test_clopper_pearson_known_values() -> None:
    assert st.clopper_pearson(0, 10)[1] == pytest.approx(1 - 0.025 ** (1 / 10))  # closed form at zero
    assert st.clopper_pearson(0, 0) == (0.0, 1.0)


def test_clopper_pearson_covers_at_least_its_level() -> None:
    n = 25
    intervals = [st.clopper_pearson(k, n) for k in range(n + 1)]
    for rate in (0.1, 0.37, 0.5, 0.8):
        coverage = sum(binom.pmf(k, n, rate) for k, (low, high) in enumerate(intervals) if low <= rate <= high)
        assert coverage >= 0.95


def test_sign_test_closed_form() -> None:
    assert st.sign_test(10, 10) == pytest.approx(2 * 0.5**10)
    assert st.sign_test(5, 10) == pytest.approx(1)
    assert st.sign_test(0, 0) == 1
    assert st.sign_test(3, 20) == pytest.approx(st.sign_test(17, 20))


@pytest.mark.parametrize(("rate", "power", "votes"), [(0.6, 0.8, 203), (0.65, 0.8, 92), (0.7, 0.8, 51), (0.7, 0.9, 67)])
def test_votes_needed_known_values(rate: float, power: float, votes: int) -> None:
    assert st.votes_needed(rate, power) == votes


def test_power_is_the_size_without_an_effect() -> None:
    assert st.sign_test_power(5, 0.9) == 0  # five votes cannot reach 0.05
    assert st.sign_test_power(6, 0.5) == pytest.approx(2 / 64)
    with pytest.raises(ValueError, match="more than"):
        st.votes_needed(0.501)


def test_equivalence() -> None:
    assert st.equivalence_test(500, 1000, 0.1) < 1e-6
    assert st.equivalence_test(600, 1000, 0.1) > 0.4
    assert st.equivalence_test(5, 10, 0.1) > 0.05  # little data never shows equality
    assert st.equivalence_test(0, 0, 0.1) == 1


def test_design_effect() -> None:
    assert st.design_effect(20, 0.05) == pytest.approx(1.95)
    assert st.design_effect(50, 0.05) == pytest.approx(3.45)
    assert st.design_effect(1, 0.5) == 1


def test_two_way_variance_by_hand() -> None:
    wins = np.array([1.0, 1, 0, 0])
    rater = np.array(["p", "p", "q", "q"])
    item = np.array([1, 2, 1, 2])
    # residuals .5 .5 -.5 -.5: rater sums 1, -1 -> 2 * 2 / 16; item sums 0; cells 4 * .25 * (4/3) / 16
    assert st.two_way_variance(wins, rater, item) == pytest.approx(4 / 16)  # not below the larger one
    wins = np.array([1.0, 0, 0, 0])
    # residuals .75 -.25 -.25 -.25: both ways sums .5, -.5 -> .5 * 2 / 16; cells .75 * 4 / 3 / 16
    assert st.two_way_variance(wins, rater, item) == pytest.approx(1 / 16)


def test_two_way_interval_edges() -> None:
    one = np.ones(6)
    assert st.two_way_interval(one, np.zeros(6), np.arange(6)) is None
    low, high = st.two_way_interval(one, np.repeat([0, 1], 3), np.tile([0, 1, 2], 2)) or (0, 0)
    assert high == 1 and low == pytest.approx(0.025 ** (1 / 2))  # two clusters speak like two votes
    zero = st.two_way_interval(1 - one, np.repeat([0, 1], 3), np.tile([0, 1, 2], 2)) or (0, 0)
    assert zero[0] == 0 and zero[1] == pytest.approx(1 - low)


def test_two_way_interval_is_never_narrower_than_the_exact_one() -> None:
    rng = np.random.default_rng(0)
    wins = rng.integers(0, 2, 60)
    low, high = st.two_way_interval(wins, np.repeat(np.arange(6), 10), np.tile(np.arange(10), 6)) or (0, 0)
    exact = st.clopper_pearson(int(wins.sum()), 60)
    assert low <= exact[0] + 1e-9 and high >= exact[1] - 1e-9


def test_two_way_interval_covers_where_the_plain_one_does_not() -> None:
    rng = np.random.default_rng(7)
    raters, items, runs = 12, 20, 200
    rater, item = np.repeat(np.arange(raters), items), np.tile(np.arange(items), raters)
    # true mean over raters and items of the logistic with sd .6 and .8, by a large draw
    truth = float(np.mean(1 / (1 + np.exp(-(0.3 + rng.normal(0, np.hypot(0.6, 0.8), 400_000))))))
    plain = clustered = 0
    for _ in range(runs):
        logit = 0.3 + rng.normal(0, 0.6, raters)[rater] + rng.normal(0, 0.8, items)[item]
        wins = (rng.random(rater.size) < 1 / (1 + np.exp(-logit))).astype(float)
        low, high = st.clopper_pearson(int(wins.sum()), wins.size)
        plain += low <= truth <= high
        low, high = st.two_way_interval(wins, rater, item) or (0, 0)
        clustered += low <= truth <= high
    assert plain / runs < 0.85
    assert 0.93 <= clustered / runs <= 1


def test_krippendorff_published_example() -> None:
    # the worked example of three coders and fifteen units, nominal alpha 0.691 (Krippendorff 2011)
    rows = ["*****3412113" + "3*3", "1*21334" + "3*******", "**21344" + "*21133*4"]
    unit = [u for row in rows for u, v in enumerate(row) if v != "*"]
    value = [v for row in rows for v in row if v != "*"]
    assert st.krippendorff_nominal(unit, value) == pytest.approx(0.691, abs=5e-4)


def test_krippendorff_edges() -> None:
    assert st.krippendorff_nominal([], []) is None
    assert st.krippendorff_nominal([1, 2], ["a", "b"]) is None  # nobody judged the same
    assert st.krippendorff_nominal([1, 1, 2, 2], ["a", "a", "b", "b"]) == pytest.approx(1)
    assert st.krippendorff_nominal([1, 1], ["a", "a"]) is None  # no variation to agree about
