"""How a dataset is made of another: its evaluation shards byte for byte, its train shards rewritten one by one."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.build.schedule import Ledger
from pipeline.build.shards import write_table
from pipeline.contract.dataset import CLAIM, HEADER, LEDGER, REJECTS, Shard, Triplets, shards_fingerprint
from pipeline.contract.errors import CnlabError
from pipeline.contract.files import atomic, lock_folder, read_json, remove_parts, write_json
from pipeline.contract.identity import check_fingerprint, code_version, fingerprint, sha256_file
from pipeline.report.card import write_card
from pipeline.report.contact import write_contact
from pipeline.report.croissant import write_croissant
from pipeline.report.leaks import soft_leaks
from pipeline.report.rejects import write_quarantine

#: Makes the table of one train shard of the new set; its rows are in the order of training.
MakeShard = Callable[[int], pa.Table]
NAME = re.compile(r"[^/\\\0]{1,200}")


@dataclasses.dataclass(frozen=True)
class Variant:
    """A dataset to be made of ``parent``.

    ``identity`` is everything that decides its content beside the parent's; ``shards`` the number of train shards.
    """

    parent: Triplets
    folder: Path
    identity: dict[str, Any]
    shards: int
    shard: MakeShard

    @property
    def fingerprint(self) -> str:
        """Of the identity and the parent."""
        return fingerprint({"parent": self.parent.fingerprint, **self.identity})


def variant_folder(parent: Triplets, name: str, otherwise: str) -> Path:
    """``name``, or ``PARENT-otherwise``, beside the parent. Raises CnlabError for a path and for the parent's name."""
    name = name or f"{parent.folder.resolve().name}-{otherwise}"
    if not NAME.fullmatch(name) or name in (".", ".."):
        raise CnlabError(f"name {name!r} must be the name of a folder, not a path; it is made beside {parent.folder}")
    folder = parent.folder.resolve().parent / name
    if folder == parent.folder.resolve():
        raise CnlabError(f"{parent.folder} cannot be made of itself; give another --name")
    return folder if parent.folder.is_absolute() else parent.folder.parent / name


def derive(variant: Variant, describe: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> dict[str, Any]:
    """Make the set, or go on making it; returns its header.

    Parameters
    ----------
    variant
        What to make.
    describe
        Called with the shards of the finished set; what it returns is added to the header.

    Raises
    ------
    CnlabError
        When the parent is damaged, or the folder holds something else.
    """
    folder, parent, sha256 = variant.folder, variant.parent, variant.fingerprint
    with lock_folder(folder):
        complete = check_fingerprint(folder / HEADER, sha256)
        if not complete and not check_fingerprint(folder / CLAIM, sha256) and any(folder.glob("*.parquet")):
            raise CnlabError(f"{folder} holds another dataset's shards; choose another --name or delete that folder")
        parent.verify()
        if not complete:
            write_json(folder / CLAIM, {"fingerprint": sha256, "variant": variant.identity})
        remove_parts(folder)
        ledger = Ledger(folder / LEDGER)
        copied = [_copy(parent, folder, s) for s in parent.header["shards"] if s["split"] == "eval"]
        if (parent.folder / REJECTS).is_file():
            _copy_file(parent.folder / REJECTS, folder / REJECTS)
        written = [_write(variant, number, ledger) for number in range(variant.shards)]
        shards = [s for s in written if s["rows"]] + copied
        for stray in set(folder.glob("*.parquet")) - {folder / s["file"] for s in shards} - {folder / REJECTS}:
            stray.unlink()
        if complete:
            print(f"{folder} is complete")
            header: dict[str, Any] = read_json(folder / HEADER)
            return header
        return _seal(variant, shards, describe(shards))


def _copy_file(source: Path, target: Path) -> str:
    """Copy unless it is there already; sha256 of the file."""
    sha = sha256_file(source)
    if not target.is_file() or sha256_file(target) != sha:
        with atomic(target) as temporary:
            shutil.copyfile(source, temporary)
    return sha


def _copy(parent: Triplets, folder: Path, shard: dict[str, Any]) -> dict[str, Any]:
    _copy_file(parent.folder / shard["file"], folder / shard["file"])
    return shard


def _write(variant: Variant, number: int, ledger: Ledger) -> dict[str, Any]:
    """Write one train shard, unless the ledger's sum says that it is there."""
    path = variant.folder / f"train-{number:05d}.parquet"
    expected = ledger.sums.get(path.name)
    if expected and path.is_file() and sha256_file(path) == expected:
        return dataclasses.asdict(Shard(path.name, "train", pq.read_metadata(path).num_rows, expected))
    table = variant.shard(number)
    write_table(path, table, (variant.fingerprint, path.name), [])
    shard = Shard(path.name, "train", len(table), sha256_file(path))
    ledger.add(shard)
    return dataclasses.asdict(shard)


def with_column(schema: pa.Schema, name: str) -> pa.Schema:
    """``schema`` with a further string column, also in the metadata that `datasets` reads."""
    if name in schema.names:
        return schema
    metadata = dict(schema.metadata or {})
    if hub := metadata.get(b"huggingface"):
        info = json.loads(hub)
        info["info"]["features"][name] = {"dtype": "string", "_type": "Value"}
        metadata[b"huggingface"] = json.dumps(info).encode()
    return schema.append(pa.field(name, pa.string())).with_metadata(metadata)


def _seal(variant: Variant, shards: list[dict[str, Any]], more: dict[str, Any]) -> dict[str, Any]:
    folder, before = variant.folder, variant.parent.header
    conditions = tuple(before["conditions"])
    counts = {split: sum(s["rows"] for s in shards if s["split"] == split) for split in ("train", "eval")}
    if not counts["train"]:
        raise CnlabError(f"{folder}: no training sample is left; lower the doses")
    header = {
        **before,
        **code_version(),
        **more,
        "name": folder.name,
        "fingerprint": variant.fingerprint,
        "parent": {"name": before["name"], "fingerprint": variant.parent.fingerprint},
        "counts": counts,
        "shards": shards,
        "eval_fingerprint": shards_fingerprint(shards, "eval"),
        "soft_map_leak": soft_leaks(folder, shards, conditions),
    }
    write_contact(folder, shards, conditions)
    write_croissant(folder, header)
    if "config" in before:
        header["config"] = {**before["config"], "variant": variant.identity, "parent": variant.parent.fingerprint}
        write_card(folder, header)
    if (folder / REJECTS).is_file():
        write_quarantine(folder)
    write_json(folder / HEADER, header)
    return header
