"""``cnlab-dataset damage``: the same dataset with known faults at known rates, or without the rows that have them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.conditions.base import sample_rng
from pipeline.config import DamageConfig
from pipeline.contract.dataset import Triplets, read_columns
from pipeline.contract.errors import CnlabError
from pipeline.faults import FAULTS, Neighbours, Sample, threshold
from pipeline.faults.base import Row
from pipeline.variants.derive import Variant, derive, variant_folder, with_column

RULES = 1  # raised when a fault does something else than before
COLUMN = "faults"


def parse_doses(faults: Sequence[str]) -> dict[str, float]:
    """``KIND=DOSE`` ... -> share of the training samples of each kind, in the order in which faults are applied.

    Raises CnlabError for unknown kinds, doses outside [0, 1] and kinds that stand twice.
    """
    doses: dict[str, float] = {}
    for entry in faults:
        kind, _, number = entry.partition("=")
        if kind not in FAULTS:
            raise CnlabError(f"unknown fault {kind!r}; there are {', '.join(FAULTS)}")
        try:
            dose = float(number)
        except ValueError:
            dose = -1.0
        if not 0 <= dose <= 1:
            raise CnlabError(f"fault {entry!r} must be {kind}=DOSE with a share between 0 and 1, e.g. {kind}=.2")
        if kind in doses:
            raise CnlabError(f"fault {kind} is given twice")
        doses[kind] = dose
    if not doses:
        raise CnlabError("no fault is given; e.g. --fault wrong_caption=.2")
    return {kind: doses[kind] for kind in FAULTS if kind in doses}


def damage(config: DamageConfig) -> dict[str, Any]:
    """Make the damaged set (or go on making it); returns its header."""
    doses, parent = parse_doses(config.fault), Triplets(config.folder)
    for kind in doses:
        FAULTS[kind].check(parent.header["conditions"])
    label = "-".join(f"{kind}-{dose:g}" for kind, dose in doses.items()) + ("-dropped" if config.drop_damaged else "")
    files = [s["file"] for s in parent.header["shards"] if s["split"] == "train"]
    identity = {
        "variant": "damage",
        "rules": RULES,
        "faults": doses,
        "seed": config.seed,
        "drop_damaged": config.drop_damaged,
    }

    def shard(number: int) -> pa.Table:
        return damaged_shard(parent, files[max(number - 1, 0) : number + 1], doses, config)

    def describe(shards: list[dict[str, Any]]) -> dict[str, Any]:
        rows = read_columns(variant.folder, shards, "train", [COLUMN])[COLUMN].to_pylist()
        counts = Counter(kind for row in rows for kind in json.loads(row))
        return {"damage": {**identity, "rows": dict(sorted(counts.items()))}}

    variant = Variant(parent, variant_folder(parent, config.name, label), identity, len(files), shard)
    return derive(variant, describe)


def damaged_shard(parent: Triplets, files: list[str], doses: dict[str, float], config: DamageConfig) -> pa.Table:
    """A train shard of the parent with its share of damage; without those rows if they are to be dropped.

    ``files`` are the shard before it, if there is one, and itself.
    """
    *before, table = [pq.read_table(parent.folder / file) for file in files]
    near = Neighbours(pa.concat_tables([*before, table]), config.seed)
    offset = len(near.keys) - len(table)
    rows: list[Row] = []
    for at, key in enumerate(table["key"].to_pylist()):
        row = table.slice(at, 1).to_pylist()[0]
        kinds = [k for k, dose in doses.items() if threshold(config.seed, k, key) < dose]
        near.at = offset + at
        damaged = _damage_row(row, parent.header["conditions"], kinds, near)
        if not (damaged and config.drop_damaged):
            rows.append(row)
    return pa.Table.from_pylist(rows, schema=with_column(table.schema, COLUMN))


def _damage_row(row: Row, conditions: list[str], kinds: list[str], near: Neighbours) -> bool:
    """Apply ``kinds`` to a row, recording them; whether any of them could be applied."""
    sample, key = Sample(row, conditions), row["key"]
    results = {kind: FAULTS[kind].apply(sample, sample_rng(near.seed, f"fault/{kind}", key), near) for kind in kinds}
    new = {kind: params for kind, params in results.items() if params is not None}
    row[COLUMN] = json.dumps({**json.loads(row.get(COLUMN) or "{}"), **new}, sort_keys=True)
    return bool(new)


def run_damage(config: DamageConfig) -> None:
    """Damage, and a line on what was done."""
    header = damage(config)
    train, done = header["counts"]["train"], header["damage"]
    rows = ", ".join(f"{k} {done['rows'].get(k, 0)} ({v:g} asked)" for k, v in done["faults"].items())
    state = "damaged samples left out" if config.drop_damaged else f"damaged: {rows}"
    print(f"{header['name']}: {train} train, {header['counts']['eval']} eval; {state}")
