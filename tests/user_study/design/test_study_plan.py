from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from study_simulation import catch_rule

from pipeline.contract.errors import CnlabError
from user_study.config import Plan
from user_study.design.plan import plan_study
from user_study.design.population import Population, crossing, draw_votes, fit_population
from user_study.design.trials import Layout, display_order, items_of_sheet, passing_share, plan_sheet, shuffled

ITEMS = [f"i{n}" for n in range(20)]
SPARE = ["s1", "s2"]
PAIRED = Layout("paired", 2, 0.1, 7)


@pytest.mark.parametrize("count", [2, 3, 7, 20])
@pytest.mark.parametrize("sheet", [0, 1, 5])
@pytest.mark.parametrize("layout", [PAIRED, Layout("ranking", 3, 0.1, 4), Layout("discrimination", 2, 0.1, 4, 6)])
def test_sides_are_balanced_and_every_item_is_there(count: int, sheet: int, layout: Layout) -> None:
    trials = plan_sheet(ITEMS[:count], SPARE, sheet, layout, "salt")
    pairs = [t for t in trials if t.kind == "pair"]
    assert sorted(t.item for t in pairs) == sorted(ITEMS[:count])
    first = Counter(t.shown[0] for t in pairs)
    assert max(first.values()) - min(first[letter] for letter in layout.letters) <= 1
    if layout.mode != "discrimination":
        assert all(sorted(t.shown) == list(layout.letters) for t in pairs)
    assert len({t.id for t in trials}) == len(trials)


@pytest.mark.parametrize("layout", [PAIRED, Layout("ranking", 4, 0, 0), Layout("discrimination", 2, 0, 0)])
def test_a_group_of_sheets_shows_each_item_every_way(layout: Layout) -> None:
    group = range(layout.sides, 2 * layout.sides)
    seen = [{t.item: t.shown for t in plan_sheet(ITEMS, SPARE, n, layout, "s") if t.kind == "pair"} for n in group]
    for item in ITEMS:
        for place in range(len(seen[0][item])):
            assert {sheet[item][place] for sheet in seen} == set(layout.letters)


def test_blocks_deal_every_item_equally_often() -> None:
    pool = [f"i{n}" for n in range(120)]
    sheets = [items_of_sheet(pool, 40, n, 2) for n in range(6)]
    assert set(Counter(item for sheet in sheets for item in sheet).values()) == {2}
    assert sheets[0] == sheets[1] and not set(sheets[0]) & set(sheets[2])
    uneven = Counter(item for n in range(4) for item in items_of_sheet(pool[:50], 40, n, 2))
    assert max(uneven.values()) - min(uneven.values()) <= 2


def test_repeats_turn_the_sides_and_come_a_block_later() -> None:
    trials = plan_sheet(ITEMS, SPARE, 0, Layout("paired", 2, 0.2, 4), "salt")
    pairs = {t.item: t for t in trials if t.kind == "pair"}
    repeats = [t for t in trials if t.kind == "repeat"]
    assert len(repeats) == 4
    assert Counter(t.shown[0] for t in repeats) == {"a": 2, "b": 2}
    for repeat in repeats:
        assert (pairs[repeat.item].block, repeat.block) == (1, 3)
        assert pairs[repeat.item].shown == repeat.shown[::-1]


def test_catch_trials() -> None:
    catches = [t for t in plan_sheet(ITEMS, SPARE, 0, PAIRED, "salt") if t.kind == "catch"]
    identical = [t for t in catches if t.shown[0] == t.shown[1]]
    scrambled = [t for t in catches if t not in identical]
    assert (len(scrambled), len(identical)) == (5, 2)
    assert {t.expected for t in identical} == {"tie"}
    for trial in scrambled:
        intact = trial.shown[{"left": 0, "right": 1}[trial.expected]]
        assert set(trial.shown) == {intact, intact + "*"}
    assert {t.item for t in catches} == set(SPARE)
    ranking = [t for t in plan_sheet(ITEMS, [], 0, Layout("ranking", 3, 0, 4), "x") if t.kind == "catch"]
    assert all(t.shown[int(t.expected)].endswith("*") for t in ranking)
    single = [t for t in plan_sheet(ITEMS, [], 0, Layout("discrimination", 2, 0, 4), "x") if t.kind == "catch"]
    assert {t.expected for t in single} == {"unseen"} and all(t.shown[0].endswith("*") for t in single)


def test_share_of_random_clickers_that_the_rule_leaves_in() -> None:
    assert passing_share(Layout("ranking", 2, 0, 7), 1) == pytest.approx(8 / 2**7)
    assert passing_share(Layout("discrimination", 2, 0, 4), 0) == pytest.approx(1 / 3**4)
    simulated = catch_rule(20_000)
    worst = max(share for name, share in simulated.items() if not name.startswith("careful"))
    assert passing_share(PAIRED, 1) == pytest.approx(worst, abs=0.003) and passing_share(PAIRED, 1) < 0.01


def test_training_comes_first_and_tells_the_kind() -> None:
    trials = plan_sheet(ITEMS, [f"s{n}" for n in range(9)], 0, Layout("discrimination", 2, 0, 4, 6), "x")
    training = [t for t in trials if t.kind == "training"]
    assert {t.block for t in training} == {0} and min(t.block for t in trials if t not in training) == 1
    assert all({"a": "first", "b": "second"}[t.shown[0]] == t.expected for t in training)


def test_ids_and_their_order_do_not_tell_the_kind() -> None:
    trials = plan_sheet(ITEMS, SPARE, 0, PAIRED, "salt")
    assert trials == sorted(trials, key=lambda t: (t.block, t.id))
    assert all(t.id.startswith("t") and len(t.id) == 11 for t in trials)
    assert not {t.id for t in trials} & {t.id for t in plan_sheet(ITEMS, SPARE, 1, PAIRED, "salt")}


def test_order_is_the_raters_own_and_keeps_blocks() -> None:
    blocks = {t.id: t.block for t in plan_sheet(ITEMS, SPARE, 0, PAIRED, "salt")}
    one, two = display_order(blocks, "seed", "r1"), display_order(blocks, "seed", "r2")
    assert sorted(one) == sorted(two) == sorted(blocks) and one != two
    assert [blocks[t] for t in one] == sorted(blocks.values())
    assert shuffled("abc", 1) == shuffled("cba", 1)


def test_population_has_the_rate_it_says_and_is_found_again() -> None:
    population = Population(0.65, 0.5, 0.9, 0.2)
    who = crossing(200, 60, 60)
    votes, used = next(draw_votes(population, who, 1, 0))
    assert votes.mean() == pytest.approx(0.65, abs=0.05) and used.mean() == pytest.approx(0.8, abs=0.01)
    fitted = fit_population(votes[0], who.rater, who.item)
    assert fitted.rater_sd == pytest.approx(0.5, abs=0.1) and fitted.item_sd == pytest.approx(0.9, abs=0.25)
    flat = fit_population(np.random.default_rng(0).integers(0, 2, 240), *np.divmod(np.arange(240), 20))
    assert flat.rater_sd < 0.4


def test_plan_names_the_least_number_of_raters(tmp_path: Path) -> None:
    quick = Plan(effect=0.68, raters=(4, 16, 30), pools=(40,), repetitions=200)
    text = plan_study(quick)
    assert "| raters" in text and "Least raters with 80%: 16, on 40 items" in text
    assert "None of these" in plan_study(Plan(effect=0.51, raters=(4,), pools=(40,), repetitions=100))
    assert "equivalence" in plan_study(Plan(margin=0.2, raters=(30,), pools=(40,), repetitions=100))
    frame = pd.DataFrame({"rater": ["a"], "item": ["i"], "kind": ["pair"], "choice": ["left"], "winner": ["x"]})
    frame.to_parquet(tmp_path / "votes.parquet")
    with pytest.raises(CnlabError, match="fewer than two raters"):
        plan_study(Plan(pilot=tmp_path / "votes.parquet"))
    with pytest.raises(CnlabError, match="--effect"):
        Plan(effect=0.5)
