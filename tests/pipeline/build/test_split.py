from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.build.split import is_eval, ranked

keys = st.sets(st.text(max_size=12), max_size=60)


@given(keys, keys, st.floats(0.05, 0.5))
def test_adding_keys_changes_neither_sides_nor_relative_order(old: set[str], new: set[str], share: float) -> None:
    before, after = ranked(old, share), ranked(old | new, share)
    for split in before:
        assert [k for k in after[split] if k in old] == before[split]
    assert sorted(after["train"] + after["eval"]) == sorted(old | new)


def test_order_of_arrival_does_not_matter() -> None:
    names = [f"k{i}" for i in range(500)]
    assert ranked(names, 0.1) == ranked(names[::-1], 0.1)


def test_share_is_about_right() -> None:
    found = sum(is_eval(f"key-{i}", 1 / 32) for i in range(32_000))
    assert 880 < found < 1120  # 1000 expected, sd 31
