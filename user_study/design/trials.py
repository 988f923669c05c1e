"""Which pictures go where: blocks of items, sides, repeats, catch and training trials, as pure functions of a salt.

Everything is chosen by sorting sha256 hashes, so a plan depends on its inputs alone and on no generator whose stream
may change with a library's version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import ceil, comb
from typing import Literal

Mode = Literal["paired", "ranking", "discrimination"]
BLOCKS = 3  # a repeat comes in the last block and its original in the first, so a whole block lies between them
IDENTICAL = (1, 3)  # which catch trials of a paired sheet show the same picture twice
SCRAMBLED = "*"  # behind the letter of a side: the picture cut up and shuffled


@dataclass(frozen=True)
class Trial:
    """One screen of a sheet.

    Attributes
    ----------
    id, block, kind, item : str, int, str, str
        Kind is ``pair`` (counts, whatever the mode), ``repeat``, ``catch`` or ``training``.
    shown : tuple of str
        Letters of the sides from left to right, with ``*`` for a scrambled picture.
    expected : str
        Choice that a catch or training trial wants; in a ranking the position that has to come last.
    """

    id: str
    block: int
    kind: str
    item: str
    shown: tuple[str, ...]
    expected: str = ""


@dataclass(frozen=True)
class Layout:
    """What one sheet holds.

    Attributes
    ----------
    mode : Mode
    sides : int
        Number of methods, named by the letters a, b, ...
    repeats : float
        Share of the items shown twice.
    catch, training : int
        Numbers of catch and training trials.
    """

    mode: Mode
    sides: int
    repeats: float
    catch: int
    training: int = 0

    @property
    def letters(self) -> str:
        """Letters of the sides."""
        return "abcdefghij"[: self.sides]


def digest(*parts: object) -> str:
    """sha256 (hex) of the parts joined by NUL."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


def shuffled(names: Iterable[str], *salt: object) -> list[str]:
    """``names`` in an order drawn by ``salt``: sorted by sha256(salt, name)."""
    return sorted(names, key=lambda name: digest(*salt, name))


def display_order(blocks: dict[str, int], seed: str, rater: str) -> list[str]:
    """Trial ids in the order in which ``rater`` sees them; the sheet's script computes the same.

    Parameters
    ----------
    blocks
        Block number of each trial id.
    seed
        The sheet's seed.
    rater
        Rater code, so that two raters of one sheet get two orders.
    """
    return sorted(blocks, key=lambda trial: (blocks[trial], digest(seed, rater, trial)))


def items_of_sheet(pool: list[str], per_sheet: int, sheet: int, sides: int) -> list[str]:
    """Items of sheet number ``sheet`` (from 0): a window of ``pool`` that moves on after every ``sides`` sheets.

    The windows go round, so the items' numbers of sheets differ by at most one window; they are equal when
    ``per_sheet * sheets / sides`` is a multiple of the pool.
    """
    start = sheet // sides * per_sheet
    return [pool[(start + n) % len(pool)] for n in range(per_sheet)]


def plan_sheet(items: list[str], spare: list[str], sheet: int, layout: Layout, salt: str) -> list[Trial]:
    """Trials of sheet number ``sheet`` (from 0), sorted by block and opaque id.

    Places: item n of a drawn order has its sides turned by n + sheet, so each method stands at each place equally
    often (up to one) within a sheet, and each item's methods at every place across a group of as many sheets as there
    are methods. In discrimination the turn chooses which of two pictures is shown. Repeats are turned once more.

    Parameters
    ----------
    items
        Item names; each is one trial.
    spare
        Items not among them, used for catch and training trials first.
    sheet
        Number of the sheet.
    layout
        What the sheet holds.
    salt
        Text that nobody outside can guess from the sheet.
    """
    group = sheet // layout.sides
    order = shuffled(items, salt, "sides", group)
    again = order[: repeated(len(order), layout.repeats)]
    turn = {item: (n + sheet) % layout.sides for n, item in enumerate(order)}
    place = again + [item for item in shuffled(items, salt, "blocks", group) if item not in again]
    third = max(len(again), ceil(len(place) / BLOCKS))
    trials = [
        Trial("", 1 + min(n // third, BLOCKS - 1), "pair", item, _shown(layout, turn[item]))
        for n, item in enumerate(place)
    ]
    repeat_turn = 0 if layout.mode == "discrimination" else 1  # there the same picture is judged again
    trials += [Trial("", BLOCKS, "repeat", item, _shown(layout, turn[item] + repeat_turn)) for item in again]
    extra = shuffled(spare, salt, "extra", sheet) or shuffled(items, salt, "extra", sheet)
    trials += [_catch(n, layout, extra[n % len(extra)], digest(salt, "catch", sheet)) for n in range(layout.catch)]
    trials += [_training(n, layout, extra[(layout.catch + n) % len(extra)]) for n in range(layout.training)]
    named = [replace(t, id="t" + digest(salt, sheet, n, t.kind, t.item)[:10]) for n, t in enumerate(trials)]
    return sorted(named, key=lambda t: (t.block, t.id))


def repeated(items: int, share: float) -> int:
    """How many of a sheet's items are shown twice: the nearest to ``share`` of them, at least one unless it is 0."""
    return max(1, round(items * share)) if share > 0 else 0


def _shown(layout: Layout, turn: int) -> tuple[str, ...]:
    letters = layout.letters
    turned = tuple(letters[(n + turn) % len(letters)] for n in range(len(letters)))
    return turned[:1] if layout.mode == "discrimination" else turned


def _catch(n: int, layout: Layout, item: str, salt: str) -> Trial:
    """A scrambled picture, or (two of them in a paired sheet) the same picture twice.

    Five scrambled and two identical pairs with one failure allowed leave at most 0.8 % of people who click at random,
    whatever share of ties they click (docs/study-statistics.md).
    """
    block, chance = 1 + (n + 1) % BLOCKS, int(digest(salt, "place", n), 16)
    if layout.mode == "discrimination":
        return Trial("", block, "catch", item, (layout.letters[n % 2] + SCRAMBLED,), "unseen")
    place = chance % layout.sides
    if layout.mode == "ranking":
        turned = _shown(layout, chance // 7)
        shown = tuple(s + SCRAMBLED if p == place else s for p, s in enumerate(turned))
        return Trial("", block, "catch", item, shown, str(place))
    letter = layout.letters[(n // 2) % 2]
    if n in IDENTICAL:
        return Trial("", block, "catch", item, (letter, letter), "tie")
    shown = (letter, letter + SCRAMBLED) if place else (letter + SCRAMBLED, letter)
    return Trial("", block, "catch", item, shown, "left" if place else "right")


def passing_share(layout: Layout, allowed: int) -> float:
    """Share of people who click at random whom the catch rule leaves in; in paired sheets at the worst share of ties.

    Parameters
    ----------
    layout
        What a sheet holds.
    allowed
        Failed catch trials that the rule allows.
    """
    if layout.mode != "paired":
        chance = 1 / 3 if layout.mode == "discrimination" else 1 / layout.sides
        return _at_least(layout.catch - allowed, layout.catch, chance, 0, 0.0)
    same = len([n for n in IDENTICAL if n < layout.catch])
    habits = (ties / 100 for ties in range(101))
    return max(_at_least(layout.catch - allowed, layout.catch - same, (1 - t) / 2, same, t) for t in habits)


def _at_least(least: int, n: int, p: float, m: int, q: float) -> float:
    """Chance of ``least`` or more successes among n trials of chance p and m of chance q."""
    return sum(
        comb(n, i) * p**i * (1 - p) ** (n - i) * comb(m, j) * q**j * (1 - q) ** (m - j)
        for i in range(n + 1)
        for j in range(m + 1)
        if i + j >= least
    )


def _training(n: int, layout: Layout, item: str) -> Trial:
    """Block 0: an example whose answer the sheet tells."""
    letter = layout.letters[n % 2]
    if layout.mode == "discrimination":
        return Trial("", 0, "training", item, (letter,), "second" if n % 2 else "first")
    if layout.mode == "ranking":
        shown = (*_shown(layout, n)[1:], letter + SCRAMBLED)
        return Trial("", 0, "training", item, shown, str(layout.sides - 1))
    shown = (letter, letter + SCRAMBLED) if n % 2 else (letter + SCRAMBLED, letter)
    return Trial("", 0, "training", item, shown, "left" if n % 2 else "right")
