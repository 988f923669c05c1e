"""Sizes as people write them."""

from __future__ import annotations

from pipeline.contract.errors import CnlabError

SUFFIXES = {"k": 1_000, "m": 1_000_000}
MOST = 1e12  # and nothing that is infinite or no number


def parse_size(text: str | int) -> int:
    """``"50k"`` -> 50000. Accepts a whole number with an optional k or m; raises CnlabError otherwise."""
    raw = str(text).strip().lower().replace("_", "")
    factor = SUFFIXES.get(raw[-1:], 1)
    digits = raw[:-1] if factor > 1 else raw
    try:
        number = float(digits) * factor
    except ValueError:
        number = -1.0
    if not 1 <= number <= MOST or number != int(number):
        raise CnlabError(f"size {text!r} is not a positive number such as 2000 or 50k")
    return int(number)


def format_size(number: int) -> str:
    """50000 -> ``"50k"``; numbers that are not whole thousands stay as they are."""
    return f"{number // 1000}k" if number >= 1000 and number % 1000 == 0 else str(number)
