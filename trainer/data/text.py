"""States of a dataset's captions, computed once for a model and cached."""

from __future__ import annotations

import contextlib

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.contract.dataset import Triplets
from pipeline.contract.identity import fingerprint
from trainer.data.cache import RowCache, cache_folder
from trainer.data.captions import FIRST, captions_of
from trainer.data.encode import PRECISION, on_device
from trainer.nets.models import Prior
from trainer.parallel import ALONE, Ranks

TEXT_BATCH = 32  # captions that are encoded together


def text_states(
    triplets: Triplets,
    split: str,
    rows: NDArray[np.int64],
    prior: Prior,
    model: str,
    captions: str = FIRST,
    device: torch.device | None = None,
    ranks: Ranks = ALONE,
) -> NDArray[np.float16]:
    """`Prior.encode_text` of the captions, (total, width) float16, memory-mapped; 116 KiB a caption for SD 1.5.

    ``captions``: one a sample, see `captions_of`.
    """
    identity = {"dataset": triplets.fingerprint, "model": model, "split": split, "precision": PRECISION}
    label = fingerprint(identity if captions == FIRST else {**identity, "captions": captions})[:16]
    path = cache_folder(triplets.folder, triplets.fingerprint) / f"text-{label}"
    total = triplets.header["counts"][split]
    cache = RowCache(path, (prior.text_width,), total, f"captions {split}", triplets.fingerprint)

    def compute(numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        texts = [own[0] for own in captions_of(triplets, split, numbers, captions)]
        target = device or prior.text_encoders[0].device
        parts = [prior.tokenize(texts[i : i + TEXT_BATCH]) for i in range(0, len(texts), TEXT_BATCH)]
        with contextlib.ExitStack() as stack:
            for encoder in prior.text_encoders:
                stack.enter_context(on_device(encoder, target))
            return np.concatenate([prior.encode_text(ids.to(target)).float().cpu().numpy() for ids in parts])

    return cache.rows(rows, compute, ranks)
