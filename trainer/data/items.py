"""Training samples as the loop wants them: cached latents, encoded maps and captions, at random access."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.conditions import REGISTRY
from pipeline.conditions.base import FLIP_UNSAFE
from pipeline.contract.dataset import Triplets
from trainer.data.captions import FIRST, RANDOM, captions_of
from trainer.data.encode import latent_moments, subset_order
from trainer.data.maps import Maps, map_store
from trainer.data.text import text_states
from trainer.nets.models import Prior
from trainer.parallel import ALONE, Ranks

SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)  # captions with these words are not mirrored
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class TextStates:
    """Cached states of captions."""

    rows: NDArray[np.float16]  # (total, width)
    empty: Tensor  # (width,), of ""


@dataclass(frozen=True)
class Mirrored:
    """Latents of the mirrored images."""

    moments: NDArray[np.float16]  # (total, 2C, h, w)
    allowed: NDArray[np.bool_]  # (N,): the caption does not tell left from right


@dataclass(frozen=True)
class Items:
    """Random access to N samples of a split, in the order of the subset."""

    rows: NDArray[np.int64]  # (N,) row numbers in the caches of the split
    moments: NDArray[np.float16]  # (total, 2C, h, w)
    maps: Maps  # N encoded pictures
    ids: Tensor  # (N or more, T, L) int64 token ids, T the number of text encoders
    empty: Tensor  # (T, L) ids of ""
    mirrored: Mirrored | None = None
    states: TextStates | None = None
    cut: int = 0  # captions that are longer than the text encoder reads
    starts: NDArray[np.int64] | None = None  # (N + 1,) where each sample's ids begin, if some have several captions

    def __len__(self) -> int:
        return len(self.rows)

    def take(
        self,
        numbers: list[int],
        dropped: Tensor | None = None,
        flips: Tensor | None = None,
        captions: Tensor | None = None,
    ) -> Batch:
        """Samples as they travel to the device.

        Parameters
        ----------
        numbers
            B numbers of samples.
        dropped
            (B,) bool: samples whose caption becomes "".
        flips
            (B,) bool: samples to be mirrored.
        captions
            (B,) in [0, 1): which of its captions each sample is seen with; left out: the first.

        Returns
        -------
        dict
            ``moments`` (B, 2C, h, w) float16; ``hint`` (B, 1 or 3, H, W) uint8 or int16, with one channel where all
            maps are grey (see `trainer.data.maps.to_hint`); ``ids`` (B, T, L) or ``text`` (B, width).
        """
        drop = torch.zeros(len(numbers), dtype=torch.bool) if dropped is None else dropped
        rows = self.rows[numbers]
        moments = self.moments[rows]
        hints = [self.maps[number] for number in numbers]
        if self.mirrored is not None and flips is not None:
            turned = np.flatnonzero(flips.numpy() & self.mirrored.allowed[numbers])
            moments[turned] = self.mirrored.moments[rows[turned]]
            for i in turned:
                hints[i] = hints[i].flip(-1)
        channels = max((len(hint) for hint in hints), default=1)
        batch = {
            "moments": torch.from_numpy(moments),
            "hint": torch.stack([hint.expand(channels, -1, -1) for hint in hints]),
        }
        if self.states is None:
            chosen = np.asarray(numbers)
            if self.starts is not None:
                first, count = self.starts[chosen], np.diff(self.starts)[chosen]
                chosen = first + (0 if captions is None else (captions.numpy() * count).astype(np.int64))
            return {**batch, "ids": torch.where(drop[:, None, None], self.empty, self.ids[chosen])}
        text = torch.from_numpy(self.states.rows[rows].astype(np.float32))
        return {**batch, "text": torch.where(drop[:, None], self.states.empty, text)}


def flip_safe(condition: str) -> bool:
    """Whether a mirrored map is the map of the mirrored image: not so for normals, poses and maps of unknown name."""
    return condition in REGISTRY and condition not in FLIP_UNSAFE


def load_items(  # noqa: PLR0913
    triplets: Triplets,
    split: str,
    count: int | None,
    prior: Prior,
    model: str,
    *,
    flip: bool = False,
    text_cache: bool = False,
    order_seed: int = 0,
    captions: str = FIRST,
    device: torch.device | None = None,
    ranks: Ranks = ALONE,
) -> Items:
    """The first ``count`` samples of a split in the order of ``order_seed``, ready to train on.

    ``captions``: see `captions_of`. ``device``: where the encoders work, if not where they are. Raises CnlabError when
    there are fewer samples. ``ranks``: called by all of them at once, they share the encoding.
    """
    rows = subset_order(triplets, split, order_seed, count)
    ascending = np.argsort(rows, kind="stable")
    texts: list[tuple[str, ...]] = [()] * len(rows)
    for i, own in zip(ascending, captions_of(triplets, split, rows[ascending], captions, anywhere=True), strict=True):
        texts[i] = own
    flat = [text for own in texts for text in own]
    further: dict[str, Any] = {"cut": captions_cut(prior, flat)}
    if captions == RANDOM:
        further["starts"] = np.cumsum([0, *map(len, texts)])
    if flip:
        moments = latent_moments(triplets, split, rows, prior, model, mirrored=True, device=device, ranks=ranks)
        further["mirrored"] = Mirrored(moments, np.array([SIDES.search(" ".join(own)) is None for own in texts]))
    empty = prior.tokenize([""])
    if text_cache:
        states = text_states(triplets, split, rows, prior, model, captions, device, ranks)
        text_device = prior.text_encoders[0].device
        further["states"] = TextStates(states, prior.encode_text(empty.to(text_device))[0].half().float().cpu())
    moments = latent_moments(triplets, split, rows, prior, model, device=device, ranks=ranks)
    return Items(rows, moments, map_store(triplets, split, rows), prior.tokenize(flat), empty[0], **further)


def captions_cut(prior: Prior, texts: list[str]) -> int:
    """How many captions have more tokens, start and end among them, than the text encoder reads."""
    tokenizer = prior.tokenizers[0]
    ids = tokenizer(texts, truncation=False, verbose=False).input_ids if texts else []
    return sum(len(own) > tokenizer.model_max_length for own in ids)
