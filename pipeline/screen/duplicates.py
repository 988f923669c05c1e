"""Exact and near copies: one of each group is kept, and no group lies on both sides of the split.

Candidates are judged in rank order, the evaluation split first, each against everything that came before it: what was
kept, and what was rejected as a copy (so a chain of slight changes is one group). A later candidate never unseats an
earlier one; that is what keeps the subset of size n a prefix of every larger one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.screen.crops import CANDIDATES, MOST_BITS, MOST_COLOUR, PARTS, THUMB, crop_fit, part_hashes

RULES = 2  # raised when other pictures count as copies
HASH_SIDE = 16  # 16 x 16 low DCT frequencies: 256 bits
SHRUNK = 4 * HASH_SIDE  # imagehash's own working size (highfreq_factor 4)
WORDS = HASH_SIDE**2 // 64
WEAK = 0.25  # of the mean strength of the lowest waves: below it, a wave's sign may change with the file's quality


class Look(NamedTuple):
    """What tells mirrored, turned and cropped copies; computed from the pixels, never stored with the rows.

    turns   `perceptual_hash` in canonical orientation, as bytes; more than one where the orientation is ambiguous
    parts   `pipeline.screen.crops.part_hashes`
    thumb   (24, 24, 3) uint8
    """

    turns: tuple[bytes, ...]
    parts: NDArray[np.uint64]
    thumb: NDArray[np.uint8]


class Signature(NamedTuple):
    """What identifies a picture: ``sha256`` of its stored pixels, its 256-bit perceptual hash (hex both), its look."""

    rank: int
    key: str
    sha256: str
    phash: str
    look: Look | None = None


class Twin(NamedTuple):
    """The earlier picture that one is a copy of, how many bits apart (-1: the same pixels), and where that one is.

    ``how`` is "", ``mirrored`` (mirrored or turned by quarters) or ``cropped`` (then ``bits`` is 100 times `crop_fit`).
    """

    key: str
    bits: int
    place: str
    how: str = ""


def pixel_hash(image: NDArray[np.uint8]) -> str:
    """sha256 (hex) of shape and pixels: equal for equal pictures whatever file they came from."""
    return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()


def perceptual_hash(image: NDArray[np.uint8]) -> str:
    """256-bit pHash (imagehash.phash: signs of low DCT coefficients against their median), 64 hex digits.

    (S, S, 3) uint8. It is shrunk by area averages first, which costs a tenth of shrinking inside imagehash.
    """
    from imagehash import phash

    return str(phash(Image.fromarray(_shrunk(image)), hash_size=HASH_SIDE))


def _shrunk(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, (SHRUNK, SHRUNK), interpolation=cv2.INTER_AREA), np.uint8)


def look_of(image: NDArray[np.uint8], phash: str) -> Look:
    """The look of a picture (S, S, 3) uint8 with its perceptual hash."""
    grey = _shrunk(image)
    thumb = cv2.resize(image, (THUMB, THUMB), interpolation=cv2.INTER_AREA)
    return Look(canonical_turns(grey, phash), part_hashes(grey), np.asarray(thumb, np.uint8))


def pack_look(look: Look) -> bytes:
    """A look as bytes, for the table of rejects."""
    return look.thumb.tobytes() + look.parts.astype("<u8").tobytes() + b"".join(look.turns)


def unpack_look(data: bytes) -> Look:
    """The look that `pack_look` wrote."""
    thumb, parts, turns = THUMB * THUMB * 3, 8 * PARTS, HASH_SIDE**2 // 8
    hashes = data[thumb + parts :]
    return Look(
        tuple(hashes[i : i + turns] for i in range(0, len(hashes), turns)),
        np.frombuffer(data[thumb : thumb + parts], "<u8").astype(np.uint64),
        np.frombuffer(data[:thumb], np.uint8).reshape(THUMB, THUMB, 3),
    )


def canonical_turns(grey: NDArray[np.uint8], phash: str) -> tuple[bytes, ...]:
    """The hash as it would be if the picture were mirrored and turned until its two lowest waves are positive.

    Mirroring flips the sign of every odd DCT coefficient along its axis, and a quarter turn transposes them besides, so
    the hashes of all eight orientations follow from the one. Where a wave is weak, both of its signs are given, and
    always the transposed hash too; the first is the one to be remembered.
    """
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(phash), np.uint8)).reshape(HASH_SIDE, HASH_SIDE)
    low = cv2.dct(grey.astype(np.float32))[:HASH_SIDE, :HASH_SIDE]
    weak = WEAK * float(np.abs(low[:4, :4].ravel()[1:]).mean())
    across = [low[0, 1] < 0] + ([low[0, 1] >= 0] if abs(low[0, 1]) < weak else [])
    along = [low[1, 0] < 0] + ([low[1, 0] >= 0] if abs(low[1, 0]) < weak else [])
    turns = []
    for flip_x in across:
        for flip_y in along:
            turned = bits.copy()
            turned[:, 1::2] ^= bool(flip_x)
            turned[1::2] ^= bool(flip_y)
            turns += [np.packbits(turned).tobytes(), np.packbits(np.ascontiguousarray(turned.T)).tobytes()]
    return tuple(turns)


class Index:
    """Every picture seen so far. Exact matches by dictionary; all others by Hamming distance to all, exhaustively.

    About 1.8 kB a picture, and one to two milliseconds a look-up among 200,000.
    """

    def __init__(self, radius: int, mirror_radius: int = -1, min_crop_fit: float = np.inf) -> None:
        """What counts as a copy.

        Parameters
        ----------
        radius
            The largest number of differing bits, of 256.
        mirror_radius
            The same between canonical orientations; negative: mirrored and turned copies are not looked for.
        min_crop_fit
            The least `crop_fit`; above 1: crops are not looked for.
        """
        self.radius, self.mirror_radius, self.min_crop_fit = radius, mirror_radius, min_crop_fit
        self._exact: dict[bytes, int] = {}
        self._names: list[tuple[str, str]] = []
        self._hashes = np.empty((WORDS, 1024), np.uint64)
        self._turns, self._parts = np.empty_like(self._hashes), np.empty((PARTS, 1024), np.uint64)
        self._scratch, self._counts = np.empty(1024, np.uint64), np.empty((2, 1024), np.uint8)
        self._thumbs, self._means = np.empty((1024, THUMB, THUMB, 3), np.uint8), np.empty((1024, 3), np.float32)

    def __len__(self) -> int:
        return len(self._names)

    def find(self, signature: Signature) -> Twin | None:
        """The same picture, else the nearest within the radius, else one mirrored or turned, else a crop, else None."""
        if (at := self._exact.get(bytes.fromhex(signature.sha256))) is not None:
            return self._twin(at, -1)
        if not self._names:
            return None
        if nearest := self._nearest(self._hashes, bytes.fromhex(signature.phash), self.radius):
            return self._twin(*nearest)
        if signature.look is None:
            return None
        turned = [self._nearest(self._turns, turn, self.mirror_radius) for turn in signature.look.turns]
        if hits := [hit for hit in turned if hit]:
            return self._twin(*min(hits, key=lambda hit: (hit[1], hit[0])), "mirrored")
        return self._find_crop(signature.look)

    def _twin(self, at: int, bits: int, how: str = "") -> Twin:
        key, place = self._names[at]
        return Twin(key, bits, place, how)

    def _nearest(self, hashes: NDArray[np.uint64], searched: bytes, radius: int) -> tuple[int, int] | None:
        """Index and distance of the nearest hash within ``radius``, the earliest of equals.

        Half of the bits are compared first: what differs in more than ``radius`` of them is out already.
        """
        if radius < 0:
            return None
        words, count = np.frombuffer(searched, np.uint64), len(self)
        half = self._differing(hashes[0, :count], words[0], 0)
        half += self._differing(hashes[1, :count], words[1], 1)
        near = np.flatnonzero(half <= radius)
        if not len(near):
            return None
        bits = np.bitwise_count(hashes[:, near] ^ words[:, None]).sum(0, dtype=np.int64)
        at = int(bits.argmin())
        return (int(near[at]), int(bits[at])) if bits[at] <= radius else None

    def _differing(self, words: NDArray[np.uint64], word: np.uint64, place: int) -> NDArray[np.uint8]:
        """Differing bits of each word; in one of two scratch arrays, for new ones cost more than the counting."""
        count = len(words)
        np.bitwise_xor(words, word, out=self._scratch[:count])
        return np.bitwise_count(self._scratch[:count], out=self._counts[place, :count])

    def _find_crop(self, look: Look) -> Twin | None:
        """A picture that this one is a crop of, or that is a crop of this one."""
        if self.min_crop_fit > 1:
            return None
        parts, count = self._parts[:, : len(self)], len(self)
        part_of, whole_of = np.full(count, 64, np.uint8), np.full(count, 64, np.uint8)
        for i in range(1, PARTS):
            np.minimum(part_of, self._differing(parts[i], look.parts[0], 0), out=part_of)
            np.minimum(whole_of, self._differing(parts[0], look.parts[i], 0), out=whole_of)
        bits = np.minimum(part_of, whole_of)
        near = np.flatnonzero(bits <= MOST_BITS)
        mean = look.thumb.mean((0, 1), dtype=np.float32)
        near = near[(np.abs(self._means[near] - mean) <= MOST_COLOUR).all(1)]
        best, closest = self.min_crop_fit, None
        for at in near[np.argsort(bits[near], kind="stable")[:CANDIDATES]]:
            pair = (self._thumbs[at], look.thumb) if part_of[at] <= whole_of[at] else (look.thumb, self._thumbs[at])
            if (fit := crop_fit(*pair)) >= best:
                best, closest = fit, self._twin(int(at), round(100 * fit), "cropped")
        return closest

    def add(self, signature: Signature, place: str) -> None:
        """Remember a picture; ``place`` is its split, or ``outside``."""
        at = len(self)
        if at == self._hashes.shape[1]:
            self._grow()
        self._hashes[:, at] = bits_of(signature.phash)
        if look := signature.look:
            self._turns[:, at], self._parts[:, at] = np.frombuffer(look.turns[0], np.uint64), look.parts
            self._thumbs[at], self._means[at] = look.thumb, look.thumb.mean((0, 1))
        else:  # like nothing that there is
            self._turns[:, at], self._parts[:, at], self._means[at] = ~np.uint64(0), 0, np.inf
        self._exact.setdefault(bytes.fromhex(signature.sha256), at)
        self._names.append((signature.key, place))

    def _grow(self) -> None:
        self._scratch, self._counts = np.empty(2 * len(self), np.uint64), np.empty((2, 2 * len(self)), np.uint8)
        for name in ("_hashes", "_turns", "_parts"):
            before = getattr(self, name)
            setattr(self, name, np.concatenate([before, np.empty_like(before)], axis=1))
        for name in ("_thumbs", "_means"):
            before = getattr(self, name)
            setattr(self, name, np.concatenate([before, np.empty_like(before)]))


def bits_of(phash: str) -> NDArray[np.uint64]:
    """64 hex digits -> (4,) uint64."""
    return np.frombuffer(bytes.fromhex(phash), dtype=np.uint64)


def seeks_turns(limits: Mapping[str, float]) -> bool:
    """Whether mirrored, turned or cropped copies are looked for, so that looks are needed."""
    return limits["mirror_bits"] >= 0 or limits["min_crop_fit"] <= 1


def judge(index: Index, signatures: list[Signature], copies: set[int], split: str, room: int) -> dict[int, Twin]:
    """Copies among the first of ``signatures`` (by rank), rank -> what each is a copy of; the index learns them all.

    copies  ranks that an earlier, interrupted build already rejected: they are only remembered
    room    stop after so many that are no copies; what lies beyond is not in the dataset and must not shadow anything
    """
    twins: dict[int, Twin] = {}
    for signature in signatures:
        if room == 0:
            break
        if signature.rank in copies:
            pass
        elif twin := index.find(signature):
            twins[signature.rank] = twin
        else:
            room -= 1
        index.add(signature, split)
    return twins


def reason_of(twin: Twin) -> tuple[str, str]:
    """The reject's reason and detail."""
    if twin.how == "cropped":
        how, reason = f"crop, fits to {twin.bits} %", "cropped_copy"
    else:
        how = "same pixels" if twin.bits < 0 else f"{twin.bits} of {HASH_SIDE**2} bits differ"
        reason = "mirrored_copy" if twin.how else "duplicate" if twin.bits < 0 else "near_duplicate"
        how = f"mirrored or turned, {how}" if twin.how else how
    return "contaminated" if twin.place == "outside" else reason, f"{how}: {twin.key} ({twin.place})"
