from __future__ import annotations

from collections import Counter

import pytest

from user_study.design.trials import display_order, plan_sheet, shuffled

ITEMS = [f"i{n}" for n in range(20)]
SPARE = ["s1", "s2"]


@pytest.mark.parametrize("count", [2, 3, 7, 20])
@pytest.mark.parametrize("sheet", [0, 1, 5])
def test_sides_are_balanced_and_every_item_is_there(count: int, sheet: int) -> None:
    trials = plan_sheet(ITEMS[:count], SPARE, sheet, 0.1, 2, "salt")
    pairs = [t for t in trials if t.kind == "pair"]
    assert sorted(t.item for t in pairs) == sorted(ITEMS[:count])
    sides = Counter(t.left for t in pairs)
    assert abs(sides["a"] - sides["b"]) <= 1
    assert all({t.left, t.right} == {"a", "b"} for t in pairs)
    assert len({t.id for t in trials}) == len(trials)


def test_a_couple_of_sheets_shows_each_pair_both_ways() -> None:
    even, odd = ({t.item: t.left for t in plan_sheet(ITEMS, SPARE, n, 0.1, 2, "s") if t.kind == "pair"} for n in (2, 3))
    assert all(even[item] != odd[item] for item in ITEMS)
    other = {t.item: t.left for t in plan_sheet(ITEMS, SPARE, 4, 0.1, 2, "s") if t.kind == "pair"}
    assert other not in (even, odd)


def test_repeats_swap_sides_and_come_a_block_later() -> None:
    trials = plan_sheet(ITEMS, SPARE, 0, 0.2, 2, "salt")
    pairs = {t.item: t for t in trials if t.kind == "pair"}
    repeats = [t for t in trials if t.kind == "repeat"]
    assert len(repeats) == 4
    assert Counter(t.left for t in repeats) == {"a": 2, "b": 2}
    for repeat in repeats:
        original = pairs[repeat.item]
        assert (original.block, repeat.block) == (0, 2)
        assert (original.left, original.right) == (repeat.right, repeat.left)


def test_catch_trials() -> None:
    catches = [t for t in plan_sheet(ITEMS, SPARE, 0, 0, 4, "salt") if t.kind == "catch"]
    assert sum(t.left == t.right for t in catches) == 2
    assert sum(t.left == t.right + "*" or t.right == t.left + "*" for t in catches) == 2
    assert {t.item for t in catches} == set(SPARE)
    assert {t.item for t in plan_sheet(ITEMS, [], 0, 0, 2, "x") if t.kind == "catch"} < set(ITEMS)
    assert not [t for t in plan_sheet(ITEMS, SPARE, 0, 0, 0, "salt") if t.kind != "pair"]


def test_ids_and_their_order_do_not_tell_the_kind() -> None:
    trials = plan_sheet(ITEMS, SPARE, 0, 0.1, 2, "salt")
    assert trials == sorted(trials, key=lambda t: (t.block, t.id))
    assert all(t.id.startswith("t") and len(t.id) == 11 for t in trials)
    assert not {t.id for t in trials} & {t.id for t in plan_sheet(ITEMS, SPARE, 1, 0.1, 2, "salt")}


def test_order_is_the_raters_own_and_keeps_blocks() -> None:
    blocks = {t.id: t.block for t in plan_sheet(ITEMS, SPARE, 0, 0.1, 2, "salt")}
    one, two = display_order(blocks, "seed", "r1"), display_order(blocks, "seed", "r2")
    assert one != two and sorted(one) == sorted(two)
    assert [blocks[t] for t in one] == sorted(blocks.values())
    assert one == display_order(dict(reversed(blocks.items())), "seed", "r1")
    assert shuffled("abcdef", "x") == shuffled("fedcba", "x") != shuffled("abcdef", "y")
