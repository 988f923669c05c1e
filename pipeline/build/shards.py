"""Parquet shards: one block of candidates, screened and mapped, written atomically.

A shard carries in its schema the dataset's fingerprint, its own block's name, and the rejects of its block, so that it
says on its own what it is; whether it is whole is told by its sha256 in the build's ledger and in dataset.json.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.contract.files import atomic
from pipeline.contract.pictures import decode_image
from pipeline.contract.schema import shard_schema
from pipeline.screen.duplicates import Look, Signature, look_of, unpack_look

BLOCK_KEY, FINGERPRINT_KEY, REJECTS_KEY = b"cnlab_block", b"cnlab_fingerprint", b"cnlab_rejects"


def write_shard(
    path: Path, rows: list[dict[str, Any]], conditions: tuple[str, ...], origin: tuple[str, str], rejects: list[Any]
) -> None:
    """Write one shard atomically. ``origin`` is (fingerprint, block name); ``rejects`` ride along in the schema."""
    write_table(path, pa.Table.from_pylist(rows, schema=shard_schema(conditions)), origin, rejects)


def write_table(path: Path, table: pa.Table, origin: tuple[str, str], rejects: list[Any]) -> None:
    """`write_shard` of rows that are a table already, with the schema of `shard_schema`."""
    metadata = {
        **(table.schema.metadata or {}),
        FINGERPRINT_KEY: origin[0].encode(),
        BLOCK_KEY: origin[1].encode(),
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


def read_signatures(path: Path, looks: bool) -> tuple[list[Signature], set[int]]:
    """Signatures of a shard's rows and of its rejected copies, in rank order; and the ranks of the latter.

    ``looks``: with what tells mirrored, turned and cropped copies.
    """
    names = [name for name in Signature._fields if name != "look"]
    file = pq.read_table(path, columns=[*names, "image"] if looks else names)
    copies = [r for r in _rejects(file.schema.metadata) if r.get("phash")]
    signatures = [
        Signature(**{name: row[name] for name in names}, look=_look(row) if looks else None)
        for row in (*file.to_pylist(), *copies)
    ]
    return sorted(signatures, key=lambda signature: signature.rank), {r["rank"] for r in copies}


def _look(row: dict[str, Any]) -> Look | None:
    """Of a row by its pixels, of a rejected copy as it was written down; None where duplicates are not looked for."""
    if "look" in row:
        return unpack_look(base64.b85decode(row["look"]))
    return look_of(decode_image(row["image"]["bytes"]), row["phash"]) if row["phash"] else None
