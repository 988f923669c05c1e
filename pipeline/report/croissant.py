"""Croissant metadata (MLCommons, version 1.0): what the dataset's files and columns are, for machines.

References
----------
https://docs.mlcommons.org/croissant/docs/croissant-spec-1.0.html
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.contract.files import write_json
from pipeline.contract.schema import IMAGE

CROISSANT = "croissant.json"
CONTEXT: dict[str, Any] = {
    "@language": "en", "@vocab": "https://schema.org/", "citeAs": "cr:citeAs", "column": "cr:column",
    "conformsTo": "dct:conformsTo", "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"}, "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"}, "equivalentProperty": "cr:equivalentProperty",
    "extract": "cr:extract", "field": "cr:field",
    "fileObject": "cr:fileObject", "fileProperty": "cr:fileProperty", "fileSet": "cr:fileSet", "format": "cr:format",
    "includes": "cr:includes", "isLiveDataset": "cr:isLiveDataset", "jsonPath": "cr:jsonPath", "key": "cr:key",
    "md5": "cr:md5", "parentField": "cr:parentField", "path": "cr:path", "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet", "references": "cr:references", "regex": "cr:regex", "repeated": "cr:repeated",
    "replace": "cr:replace", "samplingRate": "cr:samplingRate", "sc": "https://schema.org/",
    "separator": "cr:separator", "source": "cr:source", "subField": "cr:subField", "transform": "cr:transform",
}  # fmt: skip
KINDS = {pa.string(): "sc:Text", pa.int64(): "sc:Integer", pa.int32(): "sc:Integer", pa.float32(): "sc:Float"}


def write_croissant(folder: Path, header: dict[str, Any]) -> None:
    """Write croissant.json from the header and the schemas of the first shard of each split."""
    shards = header["shards"]
    files = [
        {
            "@type": "cr:FileObject",
            "@id": shard["file"],
            "name": shard["file"],
            "contentUrl": shard["file"],
            "encodingFormat": "application/x-parquet",
            "sha256": shard["sha256"],
        }
        for shard in shards
    ]
    counts = header["counts"]
    metadata = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": header["name"],
        "description": (
            f"{counts['train']} training and {counts['eval']} evaluation triplets of image, caption and condition map "
            f"({', '.join(header['conditions'])}), {header['image_size']} x {header['image_size']} pixels."
        ),
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "license": header.get("license", "unknown"),
        "version": "1.0.0",
        "identifier": header["fingerprint"],
        "url": header.get("url", f"https://huggingface.co/datasets/{header['name']}"),
        "distribution": [*files, *(_file_set(split, shards) for split in counts)],
        "recordSet": [_record_set(folder, split, shards) for split in counts],
    }
    write_json(folder / CROISSANT, metadata)


def _file_set(split: str, shards: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{split}-files",
        "name": f"{split}-files",
        "encodingFormat": "application/x-parquet",
        "includes": f"{split}-*.parquet",
    }


def _record_set(folder: Path, split: str, shards: list[dict[str, Any]]) -> dict[str, Any]:
    first = next(s["file"] for s in shards if s["split"] == split)
    fields = []
    for column in pq.read_schema(folder / first):
        field: dict[str, Any] = {
            "@type": "cr:Field",
            "@id": f"{split}/{column.name}",
            "name": f"{split}/{column.name}",
            "dataType": "sc:ImageObject" if column.type == IMAGE else KINDS[column.type],
            "source": {"fileSet": {"@id": f"{split}-files"}, "extract": {"column": column.name}},
        }
        if column.type == IMAGE:
            field["source"]["transform"] = {"jsonPath": "bytes"}
        fields.append(field)
    return {"@type": "cr:RecordSet", "@id": split, "name": split, "field": fields, "key": {"@id": f"{split}/key"}}
