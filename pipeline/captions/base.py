"""What every captioner gives, and how captions are cleaned."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.contract.text import JOINERS

Picture = NDArray[np.uint8]
#: Escape sequences of ECMA-48 (colours, cursor, titles): taken out whole, or their letters would stay.
ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-Z\\-_]")


class Captioner(Protocol):
    """Writes a caption for a picture, or hands on one of its source."""

    name: str  # as it is asked for and stored in ``caption_source``

    def prepare(self) -> None:
        """Load whatever it needs. Raises CnlabError."""

    def caption(self, image: Picture, texts: Mapping[str, str]) -> str | None:
        """The caption of ``image`` (S, S, 3) uint8 RGB, or None when there is nothing to say.

        ``texts``: captions by where they come from, and the sample's ``key`` and ``folder``.
        """


def clean_caption(text: str) -> str:
    """One line of Unicode NFC without control, bidi, zero-width or escape characters; what is no Unicode is U+FFFD.

    Zero-width joiners stay: Persian, Indic scripts and emoji are spelt with them. Captions are stored like this, and
    nothing ever interprets them.
    """
    text = ANSI.sub(" ", text).encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    kept = (c if c in JOINERS or not unicodedata.category(c).startswith("C") else _blank(c) for c in text)
    return unicodedata.normalize("NFC", re.sub(r"\s+", " ", "".join(kept)).strip())


def _blank(char: str) -> str:
    """Controls part words (NUL, tabs); format characters lie inside them."""
    return "" if unicodedata.category(char) == "Cf" else " "
