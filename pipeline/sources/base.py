"""What every source gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Rejected(Exception):
    """A sample that cannot be used: a reason from the vocabulary in docs/formats.md, and a detail for people."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Raw:
    """One raw sample, decoded and upright, before any cropping.

    image     (H, W, 3) uint8 sRGB. A decoder may have reduced it (JPEG draft mode), never below the asked size
    captions  caption source -> text, best first, as they came: ``sidecar``, ``metadata``, ``filename``, ``template``
    width     of the original, upright, pixels; ``height`` likewise
    maps      ground-truth maps that come with the source, name -> (H, W, 3) uint8, aligned with ``image``
    map_params  name -> what was done to such a map (scale, alpha, near), for its row
    facts     of the file: ``format`` (Pillow's name), ``mode``, ``jpeg_quality`` (1 ... 100), ``license`` ...
    """

    key: str
    image: NDArray[np.uint8]
    captions: dict[str, str]
    width: int
    height: int
    maps: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    map_params: dict[str, dict[str, Any]] = field(default_factory=dict)


class Source(Protocol):
    """A named, finite set of samples with random access by key."""

    own_maps: tuple[str, ...]  # conditions whose true maps come with the samples
    notes: tuple[str, ...]  # what was assumed about the user's data, a line each, for the summary

    def keys(self) -> list[str]:
        """Every key there is, unique, in any order."""

    def fingerprint(self) -> str:
        """Changes when the samples behind the keys may have changed."""

    def load(self, key: str) -> Raw:
        """Read or make one sample. Raises `Rejected` when it cannot be used."""
