"""CLIP score: agreement of pictures and captions."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from evaluation.metrics.checks import Floats, matrix, same_shape
from pipeline.contract.errors import CnlabError

SCALE = 100.0  # torchmetrics' scale; Hessel et al. multiply by 2.5


def clip_scores(images: ArrayLike, texts: ArrayLike) -> Floats:
    """100 max(cos(image, text), 0), sample by sample.

    Parameters
    ----------
    images : (N, D) array
        CLIP image embeddings, any length.
    texts : (N, D) array
        CLIP text embeddings of their captions.

    Returns
    -------
    (N,) float64 in [0, 100]

    Notes
    -----
    Five conventions are in use. Here: no prefix before the caption, scale 100, negative cosines cut off a sample at a
    time as in Hessel et al. (torchmetrics cuts off the mean). Values of different CLIP models cannot be compared.

    References
    ----------
    Hessel et al., "CLIPScore", EMNLP 2021, section 3.
    """
    x, y = matrix(images, "CLIP score", least=1), matrix(texts, "CLIP score", least=1)
    same_shape(x, y, "CLIP score")
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    if not lengths.all():
        raise CnlabError(f"CLIP score: sample {int(np.argmin(lengths))} has an embedding of length 0")
    return np.asarray(SCALE * np.clip((x * y).sum(axis=1) / lengths, 0, None), dtype=np.float64)
