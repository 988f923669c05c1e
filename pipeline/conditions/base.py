"""What every condition extractor offers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Params = dict[str, Any]
Picture = NDArray[np.uint8]

#: Maps whose colours say left or right: mirroring the pixels does not mirror what they say.
FLIP_UNSAFE = frozenset({"normal", "normalbae", "openpose", "mediapipe_face"})
CANVAS = 512  # pixels of the shorter side that lengths (blurs, strokes, cells) are stated for: SD 1.5's canvas


class Condition(Protocol):
    """A map extractor with parameters drawn per sample."""

    @property
    def name(self) -> str:
        """Its name in the registry and its column."""

    @property
    def binary(self) -> bool:
        """Edges: 0 or 255, stored with one bit a pixel."""

    @property
    def soft(self) -> bool:
        """Grey edges that may hide the grey image: `safe_quantise` is applied to a share of the samples."""

    @property
    def light_on_dark(self) -> bool:
        """Marks are light on a dark ground, so a mostly light map is a fault (inverted)."""

    @property
    def aligned(self) -> bool:
        """The map's structure lies where the image's does (not so for shuffle or palette)."""

    @property
    def flip_safe(self) -> bool:
        """Mirrored left to right, image and map are still a true pair (not so where colours mean left and right)."""

    def prepare(self) -> None:
        """Load what is needed now rather than at the first map. Raises CnlabError when it cannot be had."""

    def draw(self, rng: np.random.Generator) -> Params:
        """Draw this sample's parameters; JSON-able, so that the map can be made again from its row."""

    def extract(self, image: Picture, params: Params) -> Picture:
        """(H, W, 3) uint8 sRGB, sides of at least 32 -> (H, W) or (H, W, 3) uint8 of the same H and W.

        A pure function of its arguments; the image is left as it is. A colour map is RGB.
        """


class Extractor:
    """Flags as most extractors have them; each sets those that differ, and its name."""

    name = ""
    binary = False
    soft = False
    light_on_dark = False
    aligned = True
    flip_safe = True

    def prepare(self) -> None:
        """Nothing to load."""


@dataclass(frozen=True)
class SourceMap:
    """A map that comes with the source: nothing to draw, nothing to extract."""

    name: str
    binary: bool = False
    soft: bool = False
    light_on_dark: bool = False
    aligned: bool = True

    @property
    def flip_safe(self) -> bool:
        """Told by the name: true of depth and segmentation, false of normals."""
        return self.name not in FLIP_UNSAFE

    def prepare(self) -> None:
        """Nothing to load."""

    def draw(self, rng: np.random.Generator) -> Params:
        """No parameters."""
        return {"given": True}

    def extract(self, image: Picture, params: Params) -> Picture:
        """Raises TypeError: a given map cannot be measured on another image."""
        raise TypeError(f"{self.name} comes with the source and has no extractor")


def sample_rng(seed: int, condition: str, key: str) -> np.random.Generator:
    """The generator for one sample's parameters, a function of (seed, condition, key) alone."""
    digest = hashlib.sha256(f"{seed}\0{condition}\0{key}".encode("utf-8", "surrogatepass")).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32))


def draw_seed(rng: np.random.Generator) -> int:
    """A seed to record, for what is too long to record itself: 0 ... 2^32 - 1."""
    return int(rng.integers(2**32))


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number from [low, high], of four decimals, so that rows stay readable."""
    return round(float(rng.uniform(low, high)), 4)


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number from [low, high], equally likely in each octave, of four decimals."""
    return round(low * float((high / low) ** rng.random()), 4)


def canvas_scale(image: Picture) -> float:
    """Pixels of this image per pixel of a 512-pixel canvas."""
    return float(min(image.shape[:2]) / CANVAS)


def safe_quantise(soft: Picture, steps: int = 2) -> Picture:
    """Round a soft map to ``steps`` + 1 levels, so that it cannot hide the grey image.

    ControlNet 1.1's ``safe_step``: y = floor(x (steps + 1)) / steps for x in [0, 1], clipped at 1.
    (H, W) uint8 -> (H, W) uint8
    """
    x = soft.astype(np.float32) / 255
    return (np.clip(np.floor(x * (steps + 1)) / steps, 0, 1) * 255).astype(np.uint8)
