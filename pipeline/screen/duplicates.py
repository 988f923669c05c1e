"""Exact and near copies: one of each group is kept, and no group lies on both sides of the split.

Candidates are judged in rank order, the evaluation split first, each against everything that came before it: what was
kept, and what was rejected as a copy (so a chain of slight changes is one group). A later candidate never unseats an
earlier one; that is what keeps the subset of size n a prefix of every larger one.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

HASH_SIDE = 16  # 16 x 16 low DCT frequencies: 256 bits
SHRUNK = 4 * HASH_SIDE  # imagehash's own working size (highfreq_factor 4)


class Mark(NamedTuple):
    """What identifies a picture: ``sha256`` of its stored pixels and its 256-bit perceptual hash, both in hex."""

    rank: int
    key: str
    sha256: str
    phash: str


class Twin(NamedTuple):
    """The earlier picture that one is a copy of, how many bits apart (-1: the same pixels), and where that one is."""

    key: str
    bits: int
    place: str


def pixel_hash(image: NDArray[np.uint8]) -> str:
    """sha256 (hex) of shape and pixels: equal for equal pictures whatever file they came from."""
    return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()


def perceptual_hash(image: NDArray[np.uint8]) -> str:
    """256-bit pHash (imagehash.phash: signs of low DCT coefficients against their median), 64 hex digits.

    (S, S, 3) uint8. It is shrunk by area averages first, which costs a tenth of shrinking inside imagehash.
    """
    from imagehash import phash

    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (SHRUNK, SHRUNK), interpolation=cv2.INTER_AREA)
    return str(phash(Image.fromarray(small), hash_size=HASH_SIDE))


def bits_of(phash: str) -> NDArray[np.uint64]:
    """64 hex digits -> (4,) uint64."""
    return np.frombuffer(bytes.fromhex(phash), dtype=np.uint64)


class Index:
    """Every picture seen so far. Exact matches by dictionary; near ones by Hamming distance to all, exhaustively.

    A look-up among 200,000 pictures takes about a millisecond, so nothing approximate is needed.
    """

    def __init__(self, radius: int) -> None:
        """``radius``: the largest number of differing bits, of 256, at which two pictures count as near copies."""
        self.radius = radius
        self._exact: dict[bytes, int] = {}
        self._names: list[tuple[str, str]] = []
        self._bits = np.empty((1024, HASH_SIDE**2 // 64), np.uint64)

    def __len__(self) -> int:
        return len(self._names)

    def find(self, mark: Mark) -> Twin | None:
        """The same picture, else the nearest within the radius (the earliest of equals), else None."""
        if (at := self._exact.get(bytes.fromhex(mark.sha256))) is not None:
            key, place = self._names[at]
            return Twin(key, -1, place)
        if not self._names:
            return None
        distance = np.bitwise_count(self._bits[: len(self)] ^ bits_of(mark.phash)).sum(1, dtype=np.int64)
        at = int(distance.argmin())
        if distance[at] > self.radius:
            return None
        key, place = self._names[at]
        return Twin(key, int(distance[at]), place)

    def add(self, mark: Mark, place: str) -> None:
        """Remember a picture; ``place`` is its split, or ``outside``."""
        if len(self) == len(self._bits):
            self._bits = np.concatenate([self._bits, np.empty_like(self._bits)])
        self._bits[len(self)] = bits_of(mark.phash)
        self._exact.setdefault(bytes.fromhex(mark.sha256), len(self))
        self._names.append((mark.key, place))


def judge(index: Index, marks: list[Mark], copies: set[int], split: str, room: int) -> dict[int, Twin]:
    """Copies among the first of ``marks`` (in rank order), rank -> what each is a copy of; the index learns them all.

    copies  ranks that an earlier, interrupted build already rejected: they are only remembered
    room    stop after so many that are no copies; what lies beyond is not in the dataset and must not shadow anything
    """
    found: dict[int, Twin] = {}
    for mark in marks:
        if room == 0:
            break
        if mark.rank in copies:
            pass
        elif twin := index.find(mark):
            found[mark.rank] = twin
        else:
            room -= 1
        index.add(mark, split)
    return found


def reason_of(twin: Twin) -> tuple[str, str]:
    """The reject's reason and detail."""
    how = "same pixels" if twin.bits < 0 else f"{twin.bits} of {HASH_SIDE**2} bits differ"
    reason = "contaminated" if twin.place == "outside" else "duplicate" if twin.bits < 0 else "near_duplicate"
    return reason, f"{how}: {twin.key} ({twin.place})"
