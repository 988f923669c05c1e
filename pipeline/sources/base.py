"""What every source gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Rejected(Exception):
    """A sample that cannot be used: a reason from a fixed vocabulary, and a detail for people."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Sample:
    """One raw sample, already square.

    image  (S, S, 3) uint8 sRGB
    maps   ground-truth maps that come with the source, name -> (S, S, 3) uint8
    """

    key: str
    image: NDArray[np.uint8]
    text: str
    caption_source: str
    width: int
    height: int
    maps: dict[str, NDArray[np.uint8]] = field(default_factory=dict)


class Source(Protocol):
    """A named, finite set of samples with random access by key."""

    given: tuple[str, ...]  # conditions whose true maps come with the samples

    def keys(self) -> list[str]:
        """Every key there is, in any order."""

    def fingerprint(self) -> str:
        """Changes when the samples behind the keys may have changed."""

    def load(self, key: str) -> Sample:
        """Read or make one sample. Raises `Rejected` when it cannot be used."""
