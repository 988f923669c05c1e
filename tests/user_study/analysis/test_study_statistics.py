from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import beta, binom, t
from study_simulation import (
    DESIGNS,
    REPETITIONS,
    SPREADS,
    TWO,
    WORTH,
    ability_coverage,
    ability_intervals,
    catch_rule,
    draw_rankings,
    holm_level,
    levels,
    permutation_level,
    planner,
    rank_coverage,
    repeats_rule,
)

from user_study.analysis import statistics as st
from user_study.analysis import two_way as tw
from user_study.analysis.modes import abilities
from user_study.design.plan import equivalence_power, power
from user_study.design.population import Population, crossing, draw_votes


@pytest.mark.parametrize(("wins", "n"), [(0, 10), (3, 10), (10, 10), (52, 100), (1, 2)])
def test_clopper_pearson_is_the_beta_quantile(wins: int, n: int) -> None:
    low, high = st.clopper_pearson(wins, n)
    assert low == pytest.approx(0 if wins == 0 else beta.ppf(0.025, wins, n - wins + 1), abs=1e-9)
    assert high == pytest.approx(1 if wins == n else beta.ppf(0.975, wins + 1, n - wins), abs=1e-9)


def test_clopper_pearson_covers_at_least_its_level() -> None:
    n = 25
    intervals = [st.clopper_pearson(k, n) for k in range(n + 1)]
    for rate in (0.1, 0.37, 0.5, 0.8):
        coverage = sum(binom.pmf(k, n, rate) for k, (low, high) in enumerate(intervals) if low <= rate <= high)
        assert coverage >= 0.95
    assert st.clopper_pearson(0, 0) == (0.0, 1.0)


def test_sign_test_closed_form() -> None:
    assert st.sign_test(10, 10) == pytest.approx(2 * 0.5**10)
    assert st.sign_test(0, 0) == 1


def test_two_way_variance_by_hand() -> None:
    rater, item = np.array(["p", "p", "q", "q"]), np.array([1, 2, 1, 2])
    # residuals .5 .5 -.5 -.5: rater sums 1, -1 -> 2 * 2 / 16; item sums 0; nothing left in the cells
    assert float(tw.two_way_mean([1, 1, 0, 0], rater, item).variance) == pytest.approx(4 / 16)
    # residuals .75 -.25 -.25 -.25: both ways sums .5, -.5 -> .5 * 2 / 16; left +-.25 in every cell: .25 / 4
    mean = tw.two_way_mean([1, 0, 0, 0], rater, item)
    assert float(mean.variance) == pytest.approx(1 / 16) and float(mean.df) == 1


def test_two_way_variance_is_that_of_a_balanced_anova() -> None:
    random = np.random.default_rng(0)
    votes = random.normal(size=(7, 9)) + random.normal(size=(7, 1)) + random.normal(size=(1, 9))
    by_rater = 9 * votes.mean(axis=1).var(ddof=1)
    by_item = 7 * votes.mean(axis=0).var(ddof=1)
    left = votes - votes.mean(axis=0) - votes.mean(axis=1, keepdims=True) + votes.mean()
    cell = (left**2).sum() / 48
    mean = tw.two_way_mean(votes.ravel(), np.repeat(np.arange(7), 9), np.tile(np.arange(9), 7))
    assert float(mean.variance) == pytest.approx((by_rater + by_item - cell) / 63)
    df = (by_rater + by_item - cell) ** 2 / (by_rater**2 / 6 + by_item**2 / 8 + cell**2 / 48)
    assert float(mean.df) == pytest.approx(df)


def test_unused_votes_are_as_if_they_were_not_there() -> None:
    random = np.random.default_rng(1)
    votes, rater, item = random.integers(0, 2, 60), np.repeat(np.arange(6), 10), np.tile(np.arange(10), 6)
    used = random.random(60) < 0.7
    whole, part = tw.two_way_mean(votes, rater, item, used), tw.two_way_mean(votes[used], rater[used], item[used])
    for name in ("value", "variance", "df", "n", "raters", "items"):
        assert float(getattr(whole, name)) == pytest.approx(float(getattr(part, name)))


def test_interval_test_and_equivalence_agree() -> None:
    random = np.random.default_rng(2)
    rater, item = np.repeat(np.arange(12), 20), np.tile(np.arange(20), 12)
    for rate in (0.5, 0.6, 0.65, 0.8):
        mean = tw.two_way_mean((random.random(240) < rate).astype(float), rater, item)
        low, high = tw.rate_interval(mean)
        assert (tw.difference_test(mean) < 0.05) == (not low <= 0.5 <= high)
        low, high = tw.rate_interval(mean, 0.9)
        assert (tw.equivalence_test(mean, 0.1) < 0.05) == (low > 0.4 and high < 0.6)


def test_all_votes_alike() -> None:
    rater, item = np.repeat([0, 1], 3), np.tile([0, 1, 2], 2)
    low, high = tw.rate_interval(tw.two_way_mean(np.ones(6), rater, item))
    assert float(high) == 1 and float(low) == pytest.approx(0.025 ** (1 / 2))  # two clusters speak like two votes
    zero = tw.rate_interval(tw.two_way_mean(np.zeros(6), rater, item))
    assert float(zero[0]) == 0 and float(zero[1]) == pytest.approx(1 - float(low))
    assert float(tw.difference_test(tw.two_way_mean(np.ones(6), rater, item))) == pytest.approx(0.5)
    one_rater = tw.two_way_mean([1, 0, 1], [0, 0, 0], [0, 1, 2])
    assert np.isnan(tw.rate_interval(one_rater)[0]) and float(tw.difference_test(one_rater)) == 1


def test_minimal_detectable_effect_is_found_as_often_as_promised() -> None:
    mean = tw.Mean(*(np.asarray(x, dtype=float) for x in (0.5, 0.05**2, 1e9, 240, 12, 20)))
    effect = float(tw.minimal_detectable_effect(mean))
    reach = (t.ppf(0.975, 1e9) + t.ppf(0.8, 1e9)) * 0.05 / 0.25
    assert effect == pytest.approx(1 / (1 + np.exp(-reach)) - 0.5)


def test_needed_growth_by_hand() -> None:
    mean = tw.Mean(*(np.asarray(x, dtype=float) for x in (0.55, 0.06**2, 1e9, 240, 12, 20)))
    logit = np.log(0.55 / 0.45)
    error = 0.06 / (0.55 * 0.45)
    growth = ((t.ppf(0.975, 1e9) + t.ppf(0.8, 1e9)) * error / logit) ** 2
    assert tw.needed_growth(mean, 0.55) == pytest.approx(growth)
    error = 0.06 / np.sqrt(0.55 * 0.45) / 0.5
    growth = ((t.ppf(0.95, 1e9) + t.ppf(0.9, 1e9)) * error / np.log(0.6 / 0.4)) ** 2
    assert tw.needed_growth(mean, 0.5, equal_within=0.1) == pytest.approx(growth)
    assert tw.needed_growth(mean, 0.5) is None


def test_a_study_grown_as_needed_has_the_power() -> None:
    population, who = Population(0.6, 0.4, 0.8), crossing(12, 20, 20)
    votes, used = next(draw_votes(population, who, 500, 4))
    mean = tw.two_way_mean(votes, who.rater, who.item, used)
    typical = tw.Mean(np.asarray(0.6), *(np.asarray(np.mean(x)) for x in (mean.variance, 400.0, 240, 12, 20)))
    growth = tw.needed_growth(typical, 0.6)
    assert growth is not None
    raters, items = round(12 * growth), round(20 * growth)
    assert power(population, raters, 20, items, 1000) == pytest.approx(0.8, abs=0.06)
    equal = tw.needed_growth(typical, 0.5, equal_within=0.1)
    assert equal is not None
    raters, items = round(12 * equal), round(20 * equal)
    assert equivalence_power(Population(0.5, 0.4, 0.8), raters, 20, items, 0.1, 1000) == pytest.approx(0.8, abs=0.06)


def test_permutation_by_raters_closed_form() -> None:
    votes, rater = np.ones(20), np.repeat(np.arange(5), 4)
    assert tw.rater_permutation_test(votes, rater) == pytest.approx(2 / 2**5)
    assert tw.rater_permutation_test([1, 0], ["a", "a"]) == 1
    many = tw.rater_permutation_test(np.ones(60), np.repeat(np.arange(20), 3))
    assert many == pytest.approx(1 / 10_001)


def test_holm_by_hand() -> None:
    assert tw.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_krippendorff_published_example() -> None:
    # the worked example of three coders and fifteen units, nominal alpha 0.691 (Krippendorff 2011)
    rows = ["*****3412113" + "3*3", "1*21334" + "3*******", "**21344" + "*21133*4"]
    cells = [(u, c, v) for c, row in enumerate(rows) for u, v in enumerate(row) if v != "*"]
    assert st.krippendorff_alpha(*zip(*cells, strict=True)) == pytest.approx(0.691, abs=5e-4)  # type: ignore[misc]


def test_krippendorff_edges() -> None:
    assert st.krippendorff_alpha([], [], []) is None
    assert st.krippendorff_alpha([1, 2], ["r", "s"], ["a", "b"]) is None  # nobody judged the same
    assert st.krippendorff_alpha([1, 1, 2, 2], ["r", "s"] * 2, ["a", "a", "b", "b"]) == pytest.approx(1)
    assert st.krippendorff_alpha([1, 1], ["r", "s"], ["a", "a"]) is None  # no variation to agree about


def test_d_prime_and_overdispersion() -> None:
    d, c = st.d_prime(69, 99, 15, 99)  # rates .695 and .155 after the correction
    assert d == pytest.approx(1.5252, abs=1e-3) and c == pytest.approx(0.2526, abs=1e-3)
    assert st.d_prime(10, 10, 0, 10)[0] < 4
    fair = st.overdispersion([50, 50, 50], [100, 100, 100])
    assert fair is not None and fair.factor == 0 and fair.icc == 0 and fair.effective_n == 300
    # the paper's 12 users with 200 answers each: sd .17 of chance's .035 (protocols: chi square 255, ICC .11, n 104)
    spread = np.linspace(-1, 1, 12)
    rates = 0.52 + 0.17 * spread / spread.std(ddof=1)
    paper = st.overdispersion(200 * rates, np.full(12, 200))
    assert paper is not None and paper.chi_square == pytest.approx(255, abs=1)
    assert paper.effective_n == pytest.approx(104, abs=2)


def within(found: dict[str, float], slack: float) -> None:
    assert 0.93 - slack <= found["cover .5"] <= 0.98 + slack
    assert 0.93 - slack <= found["cover .7"] <= 0.98 + slack
    assert found["type I"] <= 0.055 + slack
    assert found["TOST"] <= 0.055 + slack


def test_levels_in_small() -> None:
    within(levels("12 x 20", 0.3, 0.8, 600), 0.03)
    within(levels("12 x 40 of 120", 0.6, 0.8, 300, ties=0.2), 0.04)


def test_intervals_of_rankings_in_small() -> None:
    assert 0.93 - 0.015 <= rank_coverage(400) <= 0.98 + 0.015
    for worth in (TWO, WORTH):
        assert 0.93 - 0.02 <= ability_coverage(300, worth=worth) <= 0.98 + 0.02


@pytest.mark.parametrize("worth", [TWO, WORTH, (0.9, 0.1, 0.0, -1.0)])
def test_the_simulated_intervals_are_those_of_the_analysis(worth: tuple[float, ...]) -> None:
    names, raters, items = "wxyz"[: len(worth)], 6, 10
    votes = pd.DataFrame({"rater": np.repeat(np.arange(raters), items), "item": np.tile(np.arange(items), raters)})
    ranks = draw_rankings(raters, items, 3, 3, worth)
    for study, fast in zip(ranks, ability_intervals(ranks, raters, items).swapaxes(0, 1), strict=True):
        orders = [tuple(map(int, row)) for row in np.argsort(-study, axis=-1)]
        entries = abilities(orders, votes, list(names))
        slow = [[entry[field] for entry in entries] for field in ("value", "ci_low", "ci_high")]
        assert np.allclose(fast, slow, atol=1e-5)


def test_catch_rule_in_small() -> None:
    kept = catch_rule(20_000)
    assert max(share for name, share in kept.items() if not name.startswith("careful")) < 0.01
    assert min(share for name, share in kept.items() if name.startswith("careful")) > 0.99 - 0.003


def test_rule_on_repeats_in_small() -> None:
    left_out = repeats_rule(4000)
    assert left_out["paired, always left"] == 1
    assert max(share for name, share in left_out.items() if "left" not in name) <= 0.01 + 0.004


@pytest.mark.proof
@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("ties", [0.0, 0.2])
def test_levels(design: str, spread: tuple[float, float], ties: float) -> None:
    within(levels(design, *spread, REPETITIONS, ties), 0)


@pytest.mark.proof
def test_planner_catch_rule_permutation_and_holm() -> None:
    left_out = repeats_rule(50_000)
    assert max(share for name, share in left_out.items() if "left" not in name) <= 0.01
    assert all(abs(planned - found) <= 0.03 for _, planned, found in planner(6000))
    kept = catch_rule(200_000)
    assert max(share for name, share in kept.items() if not name.startswith("careful")) < 0.01
    assert min(share for name, share in kept.items() if name.startswith("careful")) >= 0.99
    assert permutation_level(6000) <= 0.055
    assert holm_level(6000) <= 0.055
    assert 0.93 <= rank_coverage(6000) <= 0.98


@pytest.mark.proof
@pytest.mark.parametrize("worth", [TWO, WORTH])
def test_intervals_of_abilities(worth: tuple[float, ...]) -> None:
    assert 0.93 <= ability_coverage(5000, worth=worth) <= 0.98
