"""Which caption a training sample is seen with: of those that a dataset holds, chosen at training time."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.contract.dataset import Triplets
from pipeline.contract.errors import CnlabError
from trainer.data.encode import rows_of

FIRST, RANDOM = "first", "random"  # of `trainer.config.DataOptions.captions`; anything else names a source


def captions_of(
    triplets: Triplets, split: str, numbers: NDArray[np.int64], which: str, anywhere: bool = False
) -> list[tuple[str, ...]]:
    """Captions that each of the ascending row ``numbers`` may be seen with, at least one each.

    ``first``: the column ``text``; ``random``: all different ones in the column ``captions`` (JSON, source -> caption);
    else those of the source of that name, ``text`` where it has none; ``anywhere``: CnlabError unless one row has one.
    """
    texts = rows_of(triplets, split, "text", numbers)
    if which == FIRST:
        return [(text,) for text in texts]
    shard = next(s["file"] for s in triplets.header["shards"] if s["split"] == split)
    column = "captions" in pq.read_schema(triplets.folder / shard).names
    sources = [json.loads(row or "{}") for row in (rows_of(triplets, split, "captions", numbers) if column else [])]
    if not column or (anywhere and not any(sources)):
        raise CnlabError(f"--captions {which}: {triplets.folder} holds no captions by source (column captions)")
    if which == RANDOM:
        several = [tuple(dict.fromkeys(c for c in row.values() if c)) for row in sources]
        return [own or (text,) for own, text in zip(several, texts, strict=True)]
    if anywhere and not any(row.get(which) for row in sources):
        names = ", ".join(sorted({name for row in sources for name in row})) or "none"
        raise CnlabError(f"--captions {which}: no sample has a caption of that source; first, random, or of: {names}")
    return [(row.get(which) or text,) for row, text in zip(sources, texts, strict=True)]
