"""Parquet shards: one block of candidates, screened and mapped, written atomically.

A shard carries the dataset's fingerprint and its own block number in its schema, so a finished file can be told
from a foreign or a damaged one without any ledger.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Value
from datasets import Image as ImageFeature
from numpy.typing import NDArray
from PIL import Image

from pipeline.io import atomic

BLOCK_KEY, FINGERPRINT_KEY, REJECTS_KEY = b"cnlab_block", b"cnlab_fingerprint", b"cnlab_rejects"


def features(conditions: tuple[str, ...]) -> Features:
    """Columns of a dataset with these conditions, in the order of docs/formats.md."""
    columns: dict[str, Any] = {"image": ImageFeature(), "text": Value("string"), "conditioning_image": ImageFeature()}
    columns.update({name: ImageFeature() for name in conditions})
    columns.update({name: Value("string") for name in ("key", "split", "source", "caption_source")})
    columns.update({"rank": Value("int64"), "width": Value("int32"), "height": Value("int32")})
    columns.update({"brightness": Value("float32"), "sharpness": Value("float32")})
    columns.update({f"{name}_params": Value("string") for name in conditions})
    return Features(columns)


def encode_png(image: NDArray[np.uint8], binary: bool = False) -> bytes:
    """PNG bytes without metadata: (H, W, 3) as RGB, (H, W) as grey, or with one bit a pixel when ``binary``."""
    picture = Image.fromarray(image)
    if binary:  # a threshold, not Pillow's dithering
        picture = picture.point(lambda v: 255 if v > 127 else 0).convert("1", dither=Image.Dither.NONE)
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=6)
    return out.getvalue()


def decode_png(data: bytes) -> NDArray[np.uint8]:
    """PNG bytes -> (H, W, 3) uint8 RGB."""
    with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
        return np.array(picture.convert("RGB"), dtype=np.uint8)


def write_shard(
    path: Path, rows: list[dict[str, Any]], conditions: tuple[str, ...], identity: tuple[str, str], rejects: list[Any]
) -> None:
    """Write one shard atomically. ``identity`` is (fingerprint, block name); ``rejects`` ride along in the schema."""
    schema = features(conditions).arrow_schema
    metadata = {
        **(schema.metadata or {}),
        FINGERPRINT_KEY: identity[0].encode(),
        BLOCK_KEY: identity[1].encode(),
        REJECTS_KEY: json.dumps(rejects).encode(),
    }
    table = pa.Table.from_pylist(rows, schema=schema.with_metadata(metadata))
    with atomic(path) as temporary:
        pq.write_table(table, temporary, row_group_size=64, compression="zstd")


def read_rejects(path: Path, identity: tuple[str, str]) -> tuple[int, list[Any]] | None:
    """(rows, rejects) of a finished shard of this build, None when the file is absent, foreign or damaged."""
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid):
        return None
    with file:
        found = file.schema_arrow.metadata or {}
        if (found.get(FINGERPRINT_KEY), found.get(BLOCK_KEY)) != (identity[0].encode(), identity[1].encode()):
            return None
        return file.metadata.num_rows, json.loads(found[REJECTS_KEY])
