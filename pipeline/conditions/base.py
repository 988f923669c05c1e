"""What every condition extractor offers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Params = dict[str, Any]


class Condition(Protocol):
    """A map extractor with parameters drawn per sample."""

    @property
    def name(self) -> str:
        """Its name in the registry and its column."""

    @property
    def binary(self) -> bool:
        """Edges: 0 or 255, stored with one bit a pixel."""

    def draw(self, rng: np.random.Generator) -> Params:
        """Draw this sample's parameters; JSON-able, so that the map can be made again from its row."""

    def extract(self, image: NDArray[np.uint8], params: Params) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 sRGB -> (H, W) or (H, W, 3) uint8."""


@dataclass(frozen=True)
class Given:
    """A ground-truth map that comes with the source: nothing to draw, nothing to extract."""

    name: str
    binary: bool = False

    def draw(self, rng: np.random.Generator) -> Params:
        """No parameters."""
        return {"given": True}

    def extract(self, image: NDArray[np.uint8], params: Params) -> NDArray[np.uint8]:
        """Raises TypeError: a given map cannot be measured on another image."""
        raise TypeError(f"{self.name} comes with the source and has no extractor")


def sample_rng(seed: int, condition: str, key: str) -> np.random.Generator:
    """The generator for one sample's parameters, a function of (seed, condition, key) alone."""
    digest = hashlib.sha256(f"{seed}\0{condition}\0{key}".encode("utf-8", "surrogatepass")).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32))
