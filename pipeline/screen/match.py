"""Does the caption belong to the picture? CLIP's cosine similarity, the filter of LAION and DataComp."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from pipeline.contract.clip import Clip, load_clip
from pipeline.contract.models import pick_device


class ClipMatch:
    """Cosine similarity of a picture and a text by a ``CLIPModel`` from a local folder or the hub.

    The quantity of CLIPScore (Hessel et al., EMNLP 2021) before its scaling by 2.5. LAION-400M kept pairs above 0.3 of
    OpenAI's ViT-B/32, DataComp (Gadre et al., 2023) the best 30 % by ViT-L/14: such numbers belong to one model, so
    look at ``clip_match`` of a first build before setting ``min_clip`` for another one.
    """

    def __init__(self, weights: str) -> None:
        self.weights = weights

    def prepare(self) -> None:
        """Load the network."""
        _clip(self.weights)

    def score(self, image: NDArray[np.uint8], text: str) -> float:
        """(S, S, 3) uint8 RGB and its caption -> cosine in [-1, 1], four decimals. Text beyond the context is cut."""
        clip = _clip(self.weights)
        picture, words = clip.images([image])[0], clip.texts([text])[0]
        return round(float(picture @ words / (np.linalg.norm(picture) * np.linalg.norm(words))), 4)


@cache
def _clip(where: str) -> Clip:
    return load_clip(where, pick_device())
