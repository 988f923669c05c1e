"""The tasks that workers do: build a block of candidates, take copies out of it, hash a foreign set."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.build.sample import Recipe, square
from pipeline.build.shards import read_marks, read_shard, write_shard, write_table
from pipeline.config import DatasetConfig
from pipeline.contract.dataset import Shard
from pipeline.contract.identity import sha256_file
from pipeline.contract.pictures import decode_image
from pipeline.screen.duplicates import Mark, Twin, look_of, pack_look, perceptual_hash, pixel_hash, reason_of
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
    """A finished block: its shard, the marks of its pictures in rank order, and which of them are known copies."""

    block: Block
    shard: Shard
    marks: list[Mark]
    copies: set[int]


class Settled(NamedTuple):
    """A block that copies were taken out of, or that was cut to the wanted number."""

    block: Block
    shard: Shard


_recipes: dict[str, Recipe] = {}  # the last one of this process; opening a source lists all its files


def _recipe(config: DatasetConfig, identity: str) -> Recipe:
    label = f"{identity} {config.source} {config.decontaminate}"
    if label not in _recipes:
        _recipes.clear()
        _recipes[label] = Recipe(config)
    return _recipes[label]


def build_block(block: Block, config: DatasetConfig, identity: str, known: str | None = None) -> Built:
    """Write one shard. One that is there with the sha256 ``known`` to the ledger is kept."""
    path = config.folder / block.file
    if not (known and path.is_file() and sha256_file(path) == known):
        recipe = _recipe(config, identity)
        taken = [recipe.take(key, rank, block.split) for rank, key in enumerate(block.keys, block.first)]
        rows = [row for row, accepted in taken if accepted]
        rejects = [row for row, accepted in taken if not accepted]
        write_shard(path, rows, config.condition, (identity, block.file), rejects)
    marks, copies = read_marks(path)
    shard = Shard(block.file, block.split, len(marks) - len(copies), sha256_file(path))
    return Built(block, shard, marks if config.duplicates == "on" else [], copies)


def settle_block(
    block: Block, shard: Shard, config: DatasetConfig, identity: str, twins: dict[int, Twin], room: int
) -> Settled:
    """Move copies of earlier pictures (``twins``, by rank) from a shard's rows to its rejects, and cut it to ``room``.

    Doing it twice is doing it once: a worker may be killed between the new file and its answer.
    """
    path = config.folder / block.file
    table, rejects = read_shard(path)
    ranks: list[int] = table["rank"].to_pylist()
    for at, rank in enumerate(ranks):
        if twin := twins.get(rank):
            row = table.slice(at, 1).to_pylist()[0]
            reason, detail = reason_of(twin)
            named = {name: row[name] for name in ("key", "rank", "split", "sha256", "phash")}
            image = decode_image(row["image"]["bytes"])
            look = pack_look(look_of(image, row["phash"]))
            rejects.append({**named, "look": look, "reason": reason, "detail": detail, "thumbnail": thumbnail(image)})
    kept = [at for at, rank in enumerate(ranks) if rank not in twins]
    if len(kept) > room:
        kept = kept[:room]
        rejects = [r for r in rejects if r["rank"] < ranks[kept[-1]]]
    rejects.sort(key=lambda r: int(r["rank"]))
    write_table(path, table.take(kept).combine_chunks(), (identity, block.file), rejects)
    return Settled(block, dataclasses.replace(shard, rows=len(kept), sha256=sha256_file(path)))


def hash_images(spec: str, config: DatasetConfig, keys: tuple[str, ...]) -> list[Mark]:
    """Marks of a foreign source's images; those that cannot be read have none."""
    source = open_source(spec, config.seed, config.image_size, ())
    marks = []
    for number, key in enumerate(keys):
        try:
            image = square(source.load(key).image, config.image_size)
        except Rejected:
            continue
        phash = perceptual_hash(image)
        marks.append(Mark(number, key, pixel_hash(image), phash, look_of(image, phash)))
    return marks
