from __future__ import annotations

import pytest
from study_world import World

from user_study.config import Items, Rules
from user_study.design.trials import repeated


def test_a_catch_rule_that_random_clickers_pass_is_remarked_on(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.make(mode="ranking", catch=7)
    assert "6.2% of people who click at random" in capsys.readouterr().out
    for options in ({"mode": "ranking", "catch": 11}, {"catch": 7}):
        world.make(out=world.root / "studies" / f"{options['catch']}", **options)
        assert "click at random" not in capsys.readouterr().out


def test_a_rule_on_repeats_that_cannot_speak_or_speaks_too_often_is_remarked_on(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.make(per_sheet=14, repeats=0.3)
    assert (
        "repeats 4 of its 14 items and the rule on repeats needs 7, so it leaves nobody out; --items.repeats 0.5"
        in (capsys.readouterr().out)
    )
    for number, options in enumerate(({"repeats": 0.5}, {"repeats_needed": 0})):
        world.make(out=world.root / "studies" / str(number), per_sheet=14, **options)
        assert "rule on repeats" not in capsys.readouterr().out
    world.make(out=world.root / "studies" / "often", per_sheet=14, repeats=0.3, repeats_needed=4)
    assert "may leave out 6.2% of careful people" in (printed := capsys.readouterr().out)
    assert "--rules.repeats-needed 7 leaves out less than 1 %" in printed


def test_the_rule_on_repeats_can_speak_on_a_sheet_of_default_options() -> None:
    assert repeated(Items.per_sheet, Items.repeats) >= Rules.repeats_needed
