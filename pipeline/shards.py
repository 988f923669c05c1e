"""Parquet shards: one block of candidates, screened and mapped, written atomically.

A shard carries in its schema the dataset's fingerprint, its own block's name, and the rejects of its block, so that it
says on its own what it is; whether it is whole is told by its sha256 in the build's ledger and in dataset.json.
"""

from __future__ import annotations

import base64
import io
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from pipeline.duplicates import Mark
from pipeline.io import atomic
from pipeline.screen import FIGURES

BLOCK_KEY, FINGERPRINT_KEY, REJECTS_KEY = b"cnlab_block", b"cnlab_fingerprint", b"cnlab_rejects"
JPEG_QUALITY = 95  # and no chroma subsampling: about 45 dB PSNR on photographs, a fifth of PNG's bytes


IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})  # how `datasets` stores a picture
DTYPES = {pa.string(): "string", pa.int64(): "int64", pa.int32(): "int32", pa.float32(): "float32"}


def hub_schema(columns: dict[str, pa.DataType]) -> pa.Schema:
    """Arrow schema with the metadata by which `datasets` knows which columns are pictures.

    It equals ``datasets.Features(...).arrow_schema`` (a test compares them), without importing `datasets`, which takes
    every worker three seconds.
    """
    kinds = {
        n: {"_type": "Image"} if t == IMAGE else {"dtype": DTYPES[t], "_type": "Value"} for n, t in columns.items()
    }
    about = {"info": {"features": kinds}}
    return pa.schema(list(columns.items()), metadata={"huggingface": json.dumps(about)})


def shard_schema(conditions: tuple[str, ...]) -> pa.Schema:
    """Columns of a dataset with these conditions, in the order of docs/formats.md."""
    columns = {"image": IMAGE, "text": pa.string(), "conditioning_image": IMAGE}
    columns.update(dict.fromkeys(conditions, IMAGE))
    columns.update(dict.fromkeys(("key", "split", "source", "caption_source", "captions"), pa.string()))
    columns.update({"rank": pa.int64(), "width": pa.int32(), "height": pa.int32()})
    columns.update(dict.fromkeys((*FIGURES, "clip_match", "nsfw"), pa.float32()))
    columns.update(dict.fromkeys(("facts", "sha256", "phash"), pa.string()))
    columns.update({f"{name}_params": pa.string() for name in conditions})
    return hub_schema(columns)


def encode_png(image: NDArray[np.uint8], binary: bool = False) -> bytes:
    """PNG bytes without metadata: (H, W, 3) as RGB, (H, W) as grey, or with one bit a pixel when ``binary``."""
    picture = Image.fromarray(image)
    if binary:  # a threshold, not Pillow's dithering
        picture = picture.point(lambda v: 255 if v > 127 else 0).convert("1", dither=Image.Dither.NONE)
    out = io.BytesIO()
    # run lengths suit one-bit edges: half the time of zlib's search, and 5 % smaller
    strategy = {"compress_type": zlib.Z_RLE} if binary else {}
    picture.save(out, "PNG", compress_level=6, **strategy)
    return out.getvalue()


def encode_jpeg(image: NDArray[np.uint8]) -> bytes:
    """JPEG bytes of (H, W, 3) uint8 at quality 95, 4:4:4, without metadata."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return out.getvalue()


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """PNG or JPEG bytes of our own making -> (H, W, 3) uint8 RGB."""
    with Image.open(io.BytesIO(data), formats=["PNG", "JPEG"]) as picture:
        return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"), dtype=np.uint8)


def write_shard(
    path: Path, rows: list[dict[str, Any]], conditions: tuple[str, ...], identity: tuple[str, str], rejects: list[Any]
) -> None:
    """Write one shard atomically. ``identity`` is (fingerprint, block name); ``rejects`` ride along in the schema."""
    write_table(path, pa.Table.from_pylist(rows, schema=shard_schema(conditions)), identity, rejects)


def write_table(path: Path, table: pa.Table, identity: tuple[str, str], rejects: list[Any]) -> None:
    """`write_shard` of rows that are a table already, with the schema of `shard_schema`."""
    metadata = {
        **(table.schema.metadata or {}),
        FINGERPRINT_KEY: identity[0].encode(),
        BLOCK_KEY: identity[1].encode(),
        REJECTS_KEY: json.dumps(rejects, default=lambda b: base64.b85encode(b).decode()).encode(),
    }
    with atomic(path) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary, row_group_size=64, compression="zstd")


def read_shard(path: Path) -> tuple[pa.Table, list[dict[str, Any]]]:
    """All rows of a shard, and its rejects; in rank order each."""
    table = pq.read_table(path)
    return table, _rejects(table.schema.metadata)


def read_rejects(path: Path) -> list[dict[str, Any]]:
    """The rejects of a shard's block, in rank order; thumbnails as bytes."""
    return _rejects(pq.read_schema(path).metadata)


def _rejects(metadata: dict[bytes, bytes]) -> list[dict[str, Any]]:
    rejects: list[dict[str, Any]] = json.loads(metadata[REJECTS_KEY])
    for reject in rejects:
        if reject["thumbnail"] is not None:
            reject["thumbnail"] = base64.b85decode(reject["thumbnail"])
    return rejects


def read_marks(path: Path) -> tuple[list[Mark], set[int]]:
    """Marks of a shard's rows and of its rejected copies, in rank order; and the ranks of the latter."""
    file = pq.read_table(path, columns=list(Mark._fields))
    copies = [r for r in _rejects(file.schema.metadata) if r.get("phash")]
    marks = [Mark(**{name: row[name] for name in Mark._fields}) for row in (*file.to_pylist(), *copies)]
    return sorted(marks), {r["rank"] for r in copies}
