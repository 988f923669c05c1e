"""Which pair goes where: sides, repeats, catch trials and order, as pure functions of a salt.

Everything is chosen by sorting sha256 hashes, so a plan depends on its inputs alone and on no generator whose stream
may change with a library's version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import ceil

BLOCKS = 3  # a repeat comes in the last block and its original in the first, so a whole block lies between them


@dataclass(frozen=True)
class Trial:
    """One screen of a sheet; ``left`` and ``right`` are ``a``, ``b``, or ``a*`` / ``b*`` for a scrambled picture."""

    id: str
    block: int
    kind: str  # pair | repeat | catch
    item: str
    left: str
    right: str


def digest(*parts: object) -> str:
    """sha256 (hex) of the parts joined by NUL."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


def shuffled(names: Iterable[str], *salt: object) -> list[str]:
    """``names`` in an order drawn by ``salt``: sorted by sha256(salt, name)."""
    return sorted(names, key=lambda name: digest(*salt, name))


def display_order(blocks: dict[str, int], seed: str, rater: str) -> list[str]:
    """Trial ids in the order in which ``rater`` sees them; the sheet's script computes the same.

    Args:
        blocks: block number of each trial id.
        seed: the sheet's seed.
        rater: rater code, so that two raters of one sheet get two orders.
    """
    return sorted(blocks, key=lambda trial: (blocks[trial], digest(seed, rater, trial)))


def plan_sheet(items: list[str], spare: list[str], sheet: int, repeats: float, catch: int, salt: str) -> list[Trial]:
    """Trials of sheet number ``sheet`` (from 0), sorted by block and opaque id.

    Sides: in an even sheet half of the items (up to one) have ``a`` on the left, drawn anew for each couple of sheets;
    the odd sheet after it shows every pair the other way round. Repeats swap the sides once more.

    Args:
        items: item names; each is one pair.
        spare: items not among the pairs, used for catch trials first.
        sheet: number of the sheet.
        repeats: share of the items repeated; rounded, at least one when above 0.
        catch: number of catch trials, in turn scrambled and identical.
        salt: text that nobody outside can guess from the sheet.
    """
    couple = sheet // 2
    drawn = shuffled(items, salt, "sides", couple)
    half = len(drawn) // 2
    first_left = set(drawn[:half]) if sheet % 2 == 0 else set(drawn[half:])
    again = _repeated(drawn, half, repeats)
    trials = _pairs(shuffled(items, salt, "blocks", couple), again, first_left)
    trials += [_swap(t) for t in trials if t.item in again]
    trials += _catches(spare or items, catch, digest(salt, "catch", sheet))
    named = [replace(t, id="t" + digest(salt, sheet, n, t.kind, t.item)[:10]) for n, t in enumerate(trials)]
    return sorted(named, key=lambda t: (t.block, t.id))


def _repeated(drawn: list[str], half: int, share: float) -> list[str]:
    count = max(1, round(len(drawn) * share)) if share > 0 else 0
    # from the two ends in turn: as many repeats of one side as of the other
    ends = [drawn[n // 2] if n % 2 == 0 else drawn[-1 - n // 2] for n in range(2 * half)]
    return ends[:count]


def _pairs(order: list[str], again: list[str], first_left: set[str]) -> list[Trial]:
    order = again + [item for item in order if item not in again]
    third = max(len(again), ceil(len(order) / BLOCKS))
    trials = []
    for n, item in enumerate(order):
        sides = ("a", "b") if item in first_left else ("b", "a")
        trials.append(Trial("", min(n // third, BLOCKS - 1), "pair", item, *sides))
    return trials


def _swap(trial: Trial) -> Trial:
    return replace(trial, kind="repeat", block=BLOCKS - 1, left=trial.right, right=trial.left)


def _catches(pool: list[str], count: int, salt: str) -> list[Trial]:
    order = shuffled(pool, salt)
    trials = []
    for n in range(count):
        arm = "ab"[(n // 2) % 2]
        other = arm if n % 2 else arm + "*"
        flip = int(digest(salt, "flip", n), 16) % 2
        left, right = (other, arm) if flip else (arm, other)
        trials.append(Trial("", (n + 1) % BLOCKS, "catch", order[n % len(order)], left, right))
    return trials
