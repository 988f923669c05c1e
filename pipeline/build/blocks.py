"""The tasks that workers do: build a block of candidates, take copies out of it, hash a foreign set."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipeline.build.sample import SampleBuilder, square
from pipeline.build.shards import read_shard, read_signatures, write_shard, write_table
from pipeline.config import BuildPlan
from pipeline.contract.dataset import Shard
from pipeline.contract.identity import sha256_file
from pipeline.contract.names import RENDERED
from pipeline.screen.checks import copy_figure, row_figures
from pipeline.screen.duplicates import (
    Look,
    Signature,
    Twin,
    look_of,
    pack_look,
    perceptual_hash,
    pixel_hash,
    reason_of,
    seeks_turns,
)
from pipeline.screen.thumbs import thumbnail
from pipeline.sources import Rejected, open_source


@dataclass(frozen=True)
class Block:
    """Candidates ``first ... first + len(keys)`` of a split."""

    split: str
    number: int
    first: int
    keys: tuple[str, ...]

    @property
    def file(self) -> str:
        """Its shard's name."""
        return f"{self.split}-{self.number:05d}.parquet"


class Built(NamedTuple):
    """A finished block: its shard, the signatures of its pictures in rank order, and which of them are known copies."""

    block: Block
    shard: Shard
    signatures: list[Signature]
    copies: set[int]


class Settled(NamedTuple):
    """A block that copies were taken out of, or that was cut to the wanted number."""

    block: Block
    shard: Shard


_builders: dict[str, SampleBuilder] = {}  # the last one of this process; opening a source lists all its files


def _builder(plan: BuildPlan, fingerprint: str) -> SampleBuilder:
    label = f"{fingerprint} {plan.source} {plan.decontaminate}"
    if label not in _builders:
        _builders.clear()
        _builders[label] = SampleBuilder(plan)
    return _builders[label]


def build_block(block: Block, plan: BuildPlan, fingerprint: str, expected: str | None = None) -> Built:
    """Write one shard. One whose sha256 is ``expected``, the one of the ledger, stays as it is."""
    path, copies = plan.folder / block.file, set[int]()
    if expected and path.is_file() and sha256_file(path) == expected:
        signatures, copies = read_signatures(path, seeks_turns(plan.limits))
    else:
        builder = _builder(plan, fingerprint)
        candidates = [builder.build(key, rank, block.split) for rank, key in enumerate(block.keys, block.first)]
        rows = [row for row, accepted in candidates if accepted]
        signatures = [Signature(**{name: row[name] for name in Signature._fields}) for row in rows]
        write_shard(path, rows, plan.condition, (fingerprint, block.file), [r for r, taken in candidates if not taken])
    shard = Shard(block.file, block.split, len(signatures) - len(copies), sha256_file(path))
    return Built(block, shard, signatures if plan.duplicates == "on" else [], copies)


def settle_block(
    block: Block,
    shard: Shard,
    plan: BuildPlan,
    fingerprint: str,
    copies: dict[int, tuple[Twin, Look | None]],
    room: int,
) -> Settled:
    """Move copies of earlier pictures from a shard's rows to its rejects, and cut it to ``room``.

    ``copies``: rank -> what it is a copy of, and its look. Doing it twice is doing it once: a worker may be killed
    between the new file and its answer.
    """
    path = plan.folder / block.file
    table, rejects = read_shard(path)
    ranks: list[int] = table["rank"].to_pylist()
    for at, rank in enumerate(ranks):
        if rank in copies:
            twin, look = copies[rank]
            row = table.slice(at, 1).to_pylist()[0]
            reason, detail = reason_of(twin)
            identified = {name: row[name] for name in ("key", "rank", "split", "sha256", "phash")}
            if look is not None and seeks_turns(plan.limits):
                identified["look"] = pack_look(look)
            small = thumbnail(row["image"]["bytes"])
            why: dict[str, Any] = {"reason": reason, "detail": detail, "thumbnail": small}
            if plan.kind not in RENDERED:
                why["figures"] = {**row_figures(row, plan.condition), **copy_figure(twin)}
            rejects.append({**identified, **why})
    remaining = [at for at, rank in enumerate(ranks) if rank not in copies]
    if len(remaining) > room:
        remaining = remaining[:room]
        rejects = [r for r in rejects if r["rank"] < ranks[remaining[-1]]]
    rejects.sort(key=lambda r: int(r["rank"]))
    write_table(path, table.take(remaining).combine_chunks(), (fingerprint, block.file), rejects)
    return Settled(block, dataclasses.replace(shard, rows=len(remaining), sha256=sha256_file(path)))


def hash_images(spec: str, plan: BuildPlan, keys: tuple[str, ...]) -> list[Signature]:
    """Signatures of a foreign source's images; those that cannot be read have none."""
    source = open_source(spec, plan.seed, plan.image_size, ())
    signatures = []
    for number, key in enumerate(keys):
        try:
            image = square(source.load(key).image, plan.image_size)
        except Rejected:
            continue
        phash = perceptual_hash(image)
        signatures.append(Signature(number, key, pixel_hash(image), phash, look_of(image, phash)))
    return signatures
