"""The caption's own words in another order: "a blue bowl beside a red cube" for "a red bowl beside a blue cube"."""

from __future__ import annotations

import numpy as np

from pipeline.conditions import Params
from pipeline.faults.base import AnySet, Neighbours, Sample


class SwappedWords(AnySet):
    """All words in a random order (Yuksekgonul et al., ICLR 2023); characters, where a script has no blanks."""

    name = "swapped_words"

    def apply(self, sample: Sample, rng: np.random.Generator, near: Neighbours) -> Params | None:
        """See `Fault`."""
        text: str = sample.row["text"]
        parts, blank = (text.split(), " ") if len(text.split()) > 1 else (list(text), "")
        if len(set(parts)) < 2 or (blank == "" and text.isascii()):  # one word: its letters are no order of words
            return None
        swapped = parts
        while swapped == parts:
            swapped = [parts[at] for at in rng.permutation(len(parts))]
        sample.row["text"] = blank.join(swapped)
        return {}
