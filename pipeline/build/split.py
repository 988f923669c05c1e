"""Splits and nested subsets by hash: no state, no order of arrival, no size enters."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

EVAL_SALT, RANK_SALT = b"eval\0", b"rank\0"


def unit_hash(salt: bytes, key: str) -> int:
    """First 8 bytes of sha256(salt + key) as an integer in [0, 2**64)."""
    return int.from_bytes(hashlib.sha256(salt + key.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def is_eval(key: str, share: float) -> bool:
    """Whether ``key`` belongs to the evaluation split; depends on the key alone, so it never changes sides."""
    return unit_hash(EVAL_SALT, key) < share * 2**64


def ranked(keys: Iterable[str], share: float) -> dict[str, list[str]]:
    """Keys of each split, ``{"train": [...], "eval": [...]}``, in rank order.

    The subset of size n is the first n accepted keys, so 1k lies inside 5k inside 50k. A key's place relative to
    any other never changes when keys are added or removed.
    """
    splits: dict[str, list[str]] = {"train": [], "eval": []}
    for key in keys:
        splits["eval" if is_eval(key, share) else "train"].append(key)
    for name in splits:
        splits[name].sort(key=lambda k: (unit_hash(RANK_SALT, k), k))
    return splits
