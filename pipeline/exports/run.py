"""``cnlab-dataset export``: write a finished dataset in another trainer's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from pipeline.build.schedule import Ledger
from pipeline.config import ExportConfig
from pipeline.contract.dataset import Shard, Triplets, read_columns
from pipeline.contract.errors import CnlabError
from pipeline.contract.files import lock_folder, remove_parts, write_json
from pipeline.contract.identity import check_fingerprint, code_version, fingerprint
from pipeline.contract.sizes import parse_size
from pipeline.exports import LAYOUTS
from pipeline.exports.base import Finished, items_of

HEADER, CLAIM, LEDGER = "export.json", ".export.json", ".export.jsonl"
RULES = 1  # raised when a layout is written in another way than before


def export(config: ExportConfig) -> Path:
    """Write the export (or go on writing it); returns its folder. Raises CnlabError."""
    triplets, layout = Triplets(config.folder), LAYOUTS[config.to]
    conditions = _conditions(triplets, config, layout.single)
    size = parse_size(config.size) if config.size else triplets.count("train")
    if size > triplets.count("train"):
        raise CnlabError(f"{config.folder} has {triplets.count('train')} training samples, --size asks for {size}")
    folder = config.out or Path("exports") / f"{triplets.folder.resolve().name}-{config.to}"
    identity = {
        "dataset": triplets.fingerprint,
        "to": config.to,
        "conditions": conditions,
        "size": size,
        "rules": RULES,
    }
    sha256 = fingerprint(identity)
    with lock_folder(folder):
        if check_fingerprint(folder / HEADER, sha256):
            print(f"{folder} is complete")
            return folder
        if not check_fingerprint(folder / CLAIM, sha256):
            if stray := sorted(p.name for p in folder.iterdir() if p.name != ".lock"):
                raise CnlabError(f"{folder} holds other files ({stray[0]}); give another --out")
            write_json(folder / CLAIM, {"fingerprint": sha256})
        remove_parts(folder)
        triplets.verify()
        index = _write_shards(triplets, config, conditions, size, folder)
        layout.finish(Finished(folder, folder.resolve().name, triplets.header["image_size"], conditions, index))
        counts = {split: len(table) for split, table in index.items()}
        write_json(folder / HEADER, {**identity, "fingerprint": sha256, "counts": counts, **code_version()})
    return folder


def _conditions(triplets: Triplets, config: ExportConfig, single: bool) -> tuple[str, ...]:
    there = tuple(triplets.header["conditions"])
    if config.condition and config.condition not in there:
        raise CnlabError(f"{config.folder} has no condition {config.condition!r}; there are {', '.join(there)}")
    if config.condition:
        return (config.condition,)
    return there[:1] if single else there


def _write_shards(
    triplets: Triplets, config: ExportConfig, conditions: tuple[str, ...], size: int, folder: Path
) -> dict[str, pa.Table]:
    """Write every shard that the ledger does not know; the index of each split."""
    ledger, index, layout = Ledger(folder / LEDGER), {}, LAYOUTS[config.to]
    shards = triplets.header["shards"]
    for split in ("train", "eval"):
        count = size if split == "train" else triplets.count(split)
        starts, first = [], 0
        for shard in (s for s in shards if s["split"] == split):
            if first < count:
                starts.append((shard, first, min(shard["rows"], count - first)))
            first += shard["rows"]
        for number, (shard, start, rows) in enumerate(
            tqdm(starts, desc=f"export {split}", unit="shard", mininterval=1)
        ):
            if ledger.sums.get(shard["file"]) != shard["sha256"]:
                table = pq.read_table(triplets.folder / shard["file"]).slice(0, rows)
                layout.write(folder, split, number, items_of(table, start, conditions), conditions)
                ledger.add(Shard(**{name: shard[name] for name in ("file", "split", "rows", "sha256")}))
        index[split] = _index(triplets, split, count, {s["file"] for s, _, _ in starts})
    return index


def _index(triplets: Triplets, split: str, count: int, files: set[str]) -> pa.Table:
    shards = [s for s in triplets.header["shards"] if s["file"] in files]
    table = read_columns(triplets.folder, shards, split, ["key", "text"]).slice(0, count)
    with pq.ParquetFile(triplets.folder / shards[0]["file"]) as file:
        first: dict[str, Any] = next(file.iter_batches(1, columns=["image"])).to_pylist()[0]
    suffix = ".png" if first["image"]["bytes"].startswith(b"\x89PNG") else ".jpg"  # one format a dataset
    names = [f"{i:08d}" for i in range(len(table))]
    return table.append_column("name", pa.array(names)).append_column("suffix", pa.array([suffix] * len(table)))


def run_export(config: ExportConfig) -> None:
    """Export, and say where it is."""
    folder = export(config)
    files = {
        "imagefolder": 'load_dataset("imagefolder", data_dir=...) or load_dataset(PATH) reads it',
        "webdataset": "load_dataset(PATH), webdataset and cnlab-dataset build --source webdataset:... read it",
        "kohya": "give dataset.toml to --dataset_config",
        "simpletuner": "give multidatabackend.json to data_backend_config",
    }
    print(f"{folder}: {files[config.to]}")
