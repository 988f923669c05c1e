"""Copies: recall of each change, false alarms, and the cost of a look-up as an index grows.

    python -m benchmarks.duplicates FOLDER ...     # photographs: disjoint crops of 256 pixels are taken from them
    python -m benchmarks.duplicates                # the look-up alone

Rates have Wilson's 95 % interval over crops.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.record import record
from pipeline.screen.crops import PARTS, THUMB
from pipeline.screen.duplicates import Index, Look, Signature, look_of, perceptual_hash, pixel_hash
from pipeline.screen.limits import PRESETS

SIDE, EACH = 256, 8  # pixels of a crop; crops of one photograph
FLAT = 20.0  # grey levels: what varies less is sky or wall
SIZES, LOOKUPS = (50_000, 100_000, 200_000), 400
Picture = NDArray[np.uint8]
Change = Callable[[Picture], Picture]


def crops(folders: list[Path]) -> list[Picture]:
    """Disjoint crops of every picture below the folders, those with next to no structure left out."""
    rng, tiles = np.random.default_rng(0), []
    paths = sorted(p for folder in folders for p in folder.rglob("*") if p.suffix.lower() in (".png", ".jpg", ".webp"))
    for path in paths:
        with Image.open(path) as opened:
            picture = np.array(opened.convert("RGB"))
        corners = [(y, x) for y in range(0, picture.shape[0] - SIDE + 1, SIDE)
                   for x in range(0, picture.shape[1] - SIDE + 1, SIDE)]  # fmt: skip
        inside = [np.ascontiguousarray(picture[y : y + SIDE, x : x + SIDE]) for y, x in rng.permutation(corners)]
        tiles += [tile for tile in inside if tile.std() > FLAT][:EACH]
    return tiles


def signature_of(image: Picture, key: str) -> Signature:
    """Everything by which a picture is recognised."""
    phash = perceptual_hash(image)
    return Signature(0, key, pixel_hash(image), phash, look_of(image, phash))


def recoded(image: Picture, quality: int) -> Picture:
    """Saved as JPEG and read again."""
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(out, "JPEG", quality=quality)
    with Image.open(out) as picture:
        return np.array(picture)


def cropped(share: float) -> Change:
    """A square of ``share`` of the side from anywhere, enlarged to the old size."""
    rng, side = np.random.default_rng(3), round(SIDE * share)

    def crop(image: Picture) -> Picture:
        top, left = rng.integers(0, SIDE - side + 1, 2)
        part = np.ascontiguousarray(image[top : top + side, left : left + side])
        return np.asarray(cv2.resize(part, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC), np.uint8)

    return crop


CHANGES: dict[str, Change] = {
    "JPEG, quality 30": lambda image: recoded(image, 30),
    "half the size": lambda image: np.asarray(cv2.resize(cv2.pyrDown(image), (SIDE, SIDE)), np.uint8),
    "mirrored": lambda image: image[:, ::-1],
    "turned by 90": lambda image: np.rot90(image),
    "turned by 180": lambda image: np.rot90(image, 2),
    "turned by 270": lambda image: np.rot90(image, 3),
    "mirrored and turned": lambda image: np.rot90(image[:, ::-1]),
    "mirrored, JPEG 75": lambda image: recoded(image[:, ::-1], 75),
    "crop to 90 %": cropped(0.9),
    "crop to 85 %": cropped(0.85),
    "crop to 80 %": cropped(0.8),
}


def rate(hits: int, n: int) -> str:
    """Share of n with Wilson's interval, in percent."""
    from scipy.stats import binomtest

    low, high = binomtest(hits, n).proportion_ci(method="wilson")
    return f"{100 * hits / n:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _index() -> Index:
    limits = PRESETS["default"]
    return Index(int(limits["duplicate_bits"]), int(limits["mirror_bits"]), limits["min_crop_fit"])


def rates(folders: list[Path]) -> None:
    """False alarms among the crops, and the recall of each change of them."""
    tiles, index, alarms = crops(folders), _index(), 0
    for number, tile in enumerate(tiles):
        signature = signature_of(tile, str(number))
        alarms += index.find(signature) is not None
        index.add(signature, "train")
    n = f"{len(tiles)} disjoint crops of the pictures in {', '.join(f.name for f in folders)}"
    record(f"copies: false alarms among {n}", rate(alarms, len(tiles)))
    for name, change in CHANGES.items():
        twins = [index.find(signature_of(np.ascontiguousarray(change(tile)), "")) for tile in tiles]
        hits = sum(twin is not None and twin.key == str(i) for i, twin in enumerate(twins))
        record(f"copies: recall of {name}, {n}", rate(hits, len(tiles)))


def lookups() -> None:
    """Processor time of a look-up and an entry, among so many random pictures.

    About as many of them pass the hashes as of photographs, and all of them pass the test of colour.
    """
    rng, index, means = np.random.default_rng(0), _index(), []

    def random_signature() -> Signature:
        parts = rng.integers(0, 2**63, PARTS, np.uint64)
        look = Look((rng.bytes(32), rng.bytes(32)), parts, rng.integers(60, 200, (THUMB, THUMB, 3), np.uint8))
        return Signature(0, "", rng.bytes(32).hex(), rng.bytes(32).hex(), look)

    for size in SIZES:
        for _ in range(size - len(index)):
            index.add(random_signature(), "train")
        signatures = [random_signature() for _ in range(LOOKUPS)]
        began = time.process_time()
        for signature in signatures:
            index.find(signature)
        means.append(1e3 * (time.process_time() - began) / LOOKUPS)
        record(f"copies: CPU of a look-up among {size:,}, ms", f"{means[-1]:.2f}")
    slope, start = np.polyfit(SIZES, means, 1)
    total = SIZES[-1] * (start + slope * SIZES[-1] / 2) / 1e3
    record(f"copies: look-ups of a build of {SIZES[-1]:,} by the line through these, CPU s on one core", f"{total:.0f}")


if __name__ == "__main__":
    rates([Path(name) for name in sys.argv[1:]]) if sys.argv[1:] else lookups()
