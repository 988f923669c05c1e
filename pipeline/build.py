"""The build: Dask over blocks of candidates in rank order, until the wanted number is accepted."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.cluster import Runner, runner
from pipeline.config import DatasetConfig
from pipeline.duplicates import Index, Mark, judge, perceptual_hash, pixel_hash, reason_of
from pipeline.io import CnlabError, check_fingerprint, fingerprint, lock_folder, read_json, sha256_file, write_json
from pipeline.rows import Recipe, square
from pipeline.screen.thumbs import thumbnail
from pipeline.seal import CLAIM, HEADER, LEDGER, Shard, seal
from pipeline.shards import decode_image, read_marks, read_shard, write_shard
from pipeline.sources import Rejected, open_source
from pipeline.split import ranked

GIVE_UP = 2048  # candidates without a single good one: the thresholds do not fit this source
CHUNK = 256  # images a task when a foreign set is hashed


@dataclass(frozen=True)
class Block:
    """One task: candidates ``first ... first + len(keys)`` of a split."""

    split: str
    number: int
    first: int
    keys: tuple[str, ...]

    @property
    def file(self) -> str:
        """Its shard's name."""
        return f"{self.split}-{self.number:05d}.parquet"


#: A finished block: its shard, the marks of its pictures in rank order, and which of them are known to be copies.
Done = tuple[Block, Shard, list[Mark], set[int]]

_recipes: dict[str, Recipe] = {}  # the last one of this process; opening a source lists all its files


def _recipe(config: DatasetConfig, identity: str) -> Recipe:
    label = f"{identity} {config.source} {config.decontaminate}"
    if label not in _recipes:
        _recipes.clear()
        _recipes[label] = Recipe(config)
    return _recipes[label]


def build_block(block: Block, config: DatasetConfig, identity: str, known: str | None = None) -> Done:
    """The Dask task: write one shard. One that is there with the sha256 ``known`` to the ledger is kept."""
    path = config.folder / block.file
    if not (known and path.is_file() and sha256_file(path) == known):
        recipe = _recipe(config, identity)
        taken = [recipe.take(key, rank, block.split) for rank, key in enumerate(block.keys, block.first)]
        rows = [row for row, accepted in taken if accepted]
        rejects = [row for row, accepted in taken if not accepted]
        write_shard(path, rows, config.condition, (identity, block.file), rejects)
    marks, copies = read_marks(path)
    shard = Shard(block.file, block.split, len(marks) - len(copies), sha256_file(path))
    return block, shard, marks if config.duplicates == "on" else [], copies


class Ledger:
    """Finished shards and their sha256, a line each as they are finished; a killed build trusts only these."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, str] = {}
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        for line in lines:
            try:
                entry = json.loads(line)
                self.known[entry["file"]] = entry["sha256"]
            except (ValueError, KeyError, TypeError):  # torn by a kill: that shard is made again
                continue

    def add(self, shard: Shard) -> None:
        """Append; the leading line break ends a line that a kill may have torn."""
        if self.known.get(shard.file) != shard.sha256:
            with self.path.open("a") as out:
                out.write("\n" + json.dumps({"file": shard.file, "sha256": shard.sha256}))
        self.known[shard.file] = shard.sha256


@dataclass
class Job:
    """A build under way."""

    config: DatasetConfig
    identity: str
    run: Runner
    ledger: Ledger
    index: Index

    def fill(self, split: str, keys: list[str], wanted: int) -> list[Shard]:
        """Build blocks in rank order until ``wanted`` rows are accepted or the candidates run out."""
        size = min(self.config.block, wanted)
        blocks = [
            Block(split, n, first, tuple(keys[first : first + size]))
            for n, first in enumerate(range(0, len(keys), size))
        ]
        shards: list[Shard] = []
        accepted, total = 0, min(wanted, len(keys))
        with tqdm(total=total, desc=f"{split:5s}", unit="img", mininterval=1) as bar:
            while accepted < wanted and len(shards) < len(blocks):
                wave = blocks[len(shards) : len(shards) + math.ceil((wanted - accepted) / size)]
                for done in self._finished(wave, bar, total):
                    shards.append(self._settled(done, wanted - accepted))
                    accepted += shards[-1].rows
                if not accepted and len(shards) * size >= GIVE_UP:
                    raise CnlabError(self._hopeless(split, shards))
            bar.n = min(accepted, total)
        return shards

    def _hopeless(self, split: str, shards: list[Shard]) -> str:
        reasons = Counter(str(r["reason"]) for shard in shards for r in read_shard(self.config.folder / shard.file)[1])
        said = ", ".join(f"{name} {count}" for name, count in reasons.most_common(4))
        return (
            f"none of the first {sum(reasons.values())} candidates for {split} was accepted ({said}); "
            "look at the images, or relax the thresholds with --threshold or --screen"
        )

    def _finished(self, wave: list[Block], bar: Any, total: int) -> list[Done]:
        done = {}
        for result in self.run(
            build_block, [(b, self.config, self.identity, self.ledger.known.get(b.file)) for b in wave]
        ):
            done[result[0].number] = result
            self.ledger.add(result[1])
            bar.update(min(result[1].rows, total - bar.n))
        return [done[b.number] for b in wave]

    def _settled(self, done: Done, room: int) -> Shard:
        """Move copies of earlier pictures from a shard's rows to its rejects, and cut it to ``room`` rows."""
        block, shard, marks, copies = done
        twins = judge(self.index, marks, copies, block.split, room)
        if not twins and shard.rows <= room:
            return shard
        rows, rejects = read_shard(self.config.folder / shard.file)
        for row in rows:
            if twin := twins.get(row["rank"]):
                reason, detail = reason_of(twin)
                named = {name: row[name] for name in ("key", "rank", "split", "sha256", "phash")}
                small = thumbnail(decode_image(row["image"]["bytes"]))
                rejects.append({**named, "reason": reason, "detail": detail, "thumbnail": small})
        kept = [row for row in rows if row["rank"] not in twins]
        if len(kept) > room:
            kept = kept[:room]
            rejects = [r for r in rejects if r["rank"] < kept[-1]["rank"]]
        return self._rewritten(shard, kept, sorted(rejects, key=lambda r: int(r["rank"])))

    def _rewritten(self, shard: Shard, rows: list[Any], rejects: list[Any]) -> Shard:
        path = self.config.folder / shard.file
        write_shard(path, rows, self.config.condition, (self.identity, shard.file), rejects)
        changed = dataclasses.replace(shard, rows=len(rows), sha256=sha256_file(path))
        self.ledger.add(changed)
        return changed


def hash_images(spec: str, config: DatasetConfig, keys: tuple[str, ...]) -> list[Mark]:
    """The Dask task of decontamination: marks of a foreign source's images; those that cannot be read have none."""
    source = open_source(spec, config.seed, config.image_size, ())
    marks = []
    for number, key in enumerate(keys):
        try:
            image = square(source.load(key).image, config.image_size)
        except Rejected:
            continue
        marks.append(Mark(number, key, pixel_hash(image), perceptual_hash(image)))
    return marks


def _add_outside(run: Runner, config: DatasetConfig, index: Index) -> None:
    keys = sorted(open_source(config.decontaminate, config.seed, config.image_size).keys())
    chunks = [tuple(keys[i : i + CHUNK]) for i in range(0, len(keys), CHUNK)]
    with tqdm(total=len(keys), desc="outside", unit="img", mininterval=1) as bar:
        for marks in run(hash_images, [(config.decontaminate, config, chunk) for chunk in chunks]):
            for mark in marks:
                index.add(mark, "outside")
            bar.update(min(CHUNK, len(keys) - int(bar.n)))


def source_identity(config: DatasetConfig) -> tuple[dict[str, Any], str]:
    """Everything that decides the set's content, sources included, and its fingerprint."""
    outside = ""
    if config.decontaminate:
        outside = open_source(config.decontaminate, config.seed, config.image_size).fingerprint()
    about = config.identity(open_source(config.source, config.seed, config.image_size).fingerprint(), outside)
    return about, fingerprint(about)


def build(config: DatasetConfig) -> dict[str, Any]:
    """Build (or finish, or find) the dataset of ``config``; returns its header, the content of dataset.json."""
    if config.decontaminate and config.duplicates == "off":
        raise CnlabError("decontaminate needs duplicates on; give --duplicates on")
    recipe = Recipe(config)
    about, identity = source_identity(config)
    folder = config.folder
    with lock_folder(folder):
        if check_fingerprint(folder / HEADER, identity):
            print(f"{folder} is complete")
            header: dict[str, Any] = read_json(folder / HEADER)
            return header
        recipe.prepare()
        _claim(config, identity)
        splits = ranked(recipe.source.keys(), config.eval_share)
        print(f"{folder}: {config.resolved_size} train + {config.eval_size} eval samples", flush=True)
        with runner(config) as run:
            job = Job(config, identity, run, Ledger(folder / LEDGER), Index(int(config.limits["duplicate_bits"])))
            if config.decontaminate:
                _add_outside(run, config, job.index)
            shards = job.fill("eval", splits["eval"], config.eval_size)
            shards += job.fill("train", splits["train"], config.resolved_size)
        return seal(config, about, identity, shards)


def _claim(config: DatasetConfig, identity: str) -> None:
    """Refuse a folder that holds another configuration's unfinished shards; else mark it as this one's.

    The claim stays when the set is finished: `verify` takes the build's options from it to repair damage.
    """
    claim = config.folder / CLAIM
    if not check_fingerprint(claim, identity):
        if any(config.folder.glob("*.parquet")):
            raise CnlabError(
                f"{config.folder} holds shards of an unknown build; choose another NAME or delete that folder"
            )
        options = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.init}
        write_json(claim, {"fingerprint": identity, "options": options})
    for left in config.folder.glob(".*.part"):  # of a killed build
        left.unlink(missing_ok=True)


__all__ = ["HEADER", "Block", "build", "build_block"]
