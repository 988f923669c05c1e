"""``cnlab-dataset select``: the same samples in another order, or the first of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.config import SelectConfig
from pipeline.contract.dataset import Triplets
from pipeline.contract.errors import CnlabError
from pipeline.contract.models import weights_identity
from pipeline.contract.sizes import parse_size
from pipeline.variants.derive import Variant, derive, variant_folder
from pipeline.variants.orders import CLUSTERS, order_of

RULES = 1  # raised when a selection orders otherwise than before
ROWS = 256  # a shard
MEMORY = 2**30  # bytes of rows that are gathered in one pass over the set


class Gatherer:
    """Rows of a set in any order: as many shards at once as fit into memory, and one pass over the set for these."""

    def __init__(self, triplets: Triplets, order: NDArray[np.intp]) -> None:
        self.triplets, self.order = triplets, order
        self.shards = [s for s in triplets.header["shards"] if s["split"] == "train"]
        size = sum((triplets.folder / s["file"]).stat().st_size for s in self.shards)
        row = size / max(triplets.count("train"), 1)
        self.group = ROWS * max(1, int(MEMORY / row / ROWS))
        self._cached: tuple[int, pa.Table] | None = None

    def shard(self, number: int) -> pa.Table:
        """Rows of new shard ``number``, their ``rank`` the place in the selection."""
        first = number * ROWS
        group = first // self.group
        if not self._cached or self._cached[0] != group:
            self._cached = group, self._gather(self.order[group * self.group : (group + 1) * self.group])
        start = first - group * self.group
        table = self._cached[1].slice(start, ROWS)
        rank = pa.array(np.arange(first, first + len(table)), pa.int64())
        return table.set_column(table.schema.get_field_index("rank"), table.schema.field("rank"), rank)

    def _gather(self, rows: NDArray[np.intp]) -> pa.Table:
        """Rows at the places ``rows``, in that order."""
        parts, places, start = [], [], 0
        for shard in self.shards:
            inside = np.sort(rows[(rows >= start) & (rows < start + shard["rows"])])
            if len(inside):
                parts.append(pq.read_table(self.triplets.folder / shard["file"]).take(inside - start))
                places.append(inside)
            start += shard["rows"]
        back = np.searchsorted(np.concatenate(places), rows)
        return pa.concat_tables(parts).take(back).replace_schema_metadata(parts[0].schema.metadata)


def select(config: SelectConfig) -> dict[str, Any]:
    """Make the selected set (or go on making it); returns its header."""
    parent = Triplets(config.folder)
    size = parse_size(config.size) if config.size else parent.count("train")
    if size > parent.count("train"):
        raise CnlabError(f"{config.folder} has {parent.count('train')} training samples, --size asks for {size}")
    if config.clip and config.select != CLUSTERS:
        raise CnlabError("--clip is for --select clusters alone")
    label = config.select.replace(":", "-") + (f"-{config.size}" if config.size else "")
    folder = variant_folder(parent, config.name, label)
    identity: dict[str, Any] = {"variant": "select", "rules": RULES, "select": config.select, "size": size}
    if config.clip:
        identity["clip"] = weights_identity(config.clip)
    order = order_of(parent, config.select, config.clip)[:size]
    gatherer = Gatherer(parent, order)
    variant = Variant(parent, folder, identity, -(-size // ROWS), gatherer.shard)
    return derive(variant, lambda shards: {"selection": config.select})


def run_select(config: SelectConfig) -> None:
    """Select, and a line on what was done."""
    header = select(config)
    counts = header["counts"]
    print(
        f"{header['name']}: {counts['train']} train by {config.select}, {counts['eval']} eval; its subsets are nested"
    )
