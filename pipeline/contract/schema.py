"""Columns of a dataset's shards."""

from __future__ import annotations

import json

import pyarrow as pa

#: Columns of a row: what was measured on the stored square.
FIGURES = ("brightness", "contrast", "sharpness", "blur", "chroma", "clipped", "border")
VARIANT_COLUMNS = ("faults",)  # of datasets made from datasets
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
    metadata = {"info": {"features": kinds}}
    return pa.schema(list(columns.items()), metadata={"huggingface": json.dumps(metadata)})


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
