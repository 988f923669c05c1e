"""A build under way, seen from the process that leads it: which block is next, which are judged, what is written down.

Blocks of both splits are built side by side and finished in any order; they are judged in rank order, eval first, so
what is decided does not depend on when anything was finished.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.build.blocks import Block, Built, Settled, build_block, settle_block
from pipeline.build.pool import Pool
from pipeline.build.shards import read_rejects
from pipeline.config import DatasetConfig
from pipeline.contract.dataset import Shard
from pipeline.contract.errors import CnlabError
from pipeline.screen.duplicates import Index, judge, reason_of

GIVE_UP = 2048  # candidates without a single good one: the thresholds do not fit this source


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
class Split:
    """How far one split is."""

    name: str
    blocks: list[Block]
    wanted: int
    sent: int = 0  # blocks handed out
    judged: int = 0  # blocks judged, in rank order
    accepted: int = 0  # rows of those
    seen: int = 0  # candidates of blocks that are built
    passed: int = 0  # rows of those, copies among them
    waiting: dict[int, Built] = field(default_factory=dict)  # built, not judged
    copies: dict[int, Counter[str]] = field(default_factory=dict)  # of blocks that are being settled
    shards: dict[int, Shard] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Nothing is left to judge."""
        return self.accepted >= self.wanted or self.judged == len(self.blocks)

    def next_block(self) -> Block | None:
        """The next to build; None while those under way will probably do, at the rate of acceptance so far."""
        if self.complete or self.sent == len(self.blocks):
            return None
        rate = self.passed / self.seen if self.seen else 1.0
        flying = self.blocks[self.judged : self.sent]
        hoped = sum(
            self.waiting[b.number].shard.rows if b.number in self.waiting else rate * len(b.keys) for b in flying
        )
        if self.accepted + hoped >= self.wanted:
            return None
        self.sent += 1
        return self.blocks[self.sent - 1]


def cut(name: str, keys: list[str], wanted: int, size: int) -> Split:
    """A split of ``keys`` in rank order, in blocks of at most ``size`` candidates."""
    size = min(size, wanted)
    firsts = range(0, len(keys), size)
    return Split(name, [Block(name, n, i, tuple(keys[i : i + size])) for n, i in enumerate(firsts)], wanted)


@dataclass
class Job:
    """A build under way."""

    config: DatasetConfig
    identity: str
    pool: Pool
    ledger: Ledger
    index: Index
    flying: int = 0

    def run(self, splits: list[Split]) -> list[Shard]:
        """Build blocks until each split has its number of rows or no candidates are left; splits are judged in turn."""
        total = sum(min(s.wanted, sum(len(b.keys) for b in s.blocks)) for s in splits)
        with tqdm(total=total, desc="build", unit="img", mininterval=1) as bar:
            self._send(splits)
            import_module("pipeline.report.card")  # half a second, now that workers are busy
            while self._send(splits):
                self._receive(self.pool.result(), {s.name: s for s in splits})
                self._judge(splits)
                bar.update(min(sum(min(s.accepted + _rows(s), s.wanted) for s in splits), total) - bar.n)
        return [shard for s in splits for _, shard in sorted(s.shards.items())]

    def _send(self, splits: list[Split]) -> int:
        """Keep the pool busy; returns how many calls are under way."""
        width = self.pool.width
        for split in splits:
            while self.flying < width and (block := split.next_block()):
                self._submit(build_block, block, self.config, self.identity, self.ledger.known.get(block.file))
        return self.flying

    def _submit(self, *call: Any) -> None:
        self.pool.submit(*call)
        self.flying += 1

    def _receive(self, result: Built | Settled, splits: dict[str, Split]) -> None:
        self.flying -= 1
        block, shard = result.block, result.shard
        split = splits[block.split]
        self.ledger.add(shard)
        if isinstance(result, Built):
            split.waiting[block.number] = result
            split.seen += len(block.keys)
            split.passed += shard.rows
        else:
            split.shards[block.number] = shard
            del split.copies[block.number]

    def _judge(self, splits: list[Split]) -> None:
        for split in splits:
            while not split.complete and (built := split.waiting.pop(split.judged, None)):
                self._judge_block(split, built)
            if not split.complete:
                return

    def _judge_block(self, split: Split, built: Built) -> None:
        """Which rows are copies of earlier pictures, and whether the shard has to change for that or for the number."""
        block, shard, marks, copies = built
        room = split.wanted - split.accepted
        twins = judge(self.index, marks, copies, split.name, room)
        if twins or shard.rows > room:
            split.copies[block.number] = Counter(reason_of(twin)[0] for twin in twins.values())
            self._submit(settle_block, block, shard, self.config, self.identity, twins, room)
        else:
            split.shards[block.number] = shard
        split.accepted += min(room, shard.rows - len(twins))
        split.judged += 1
        if not split.accepted and block.first + len(block.keys) >= GIVE_UP:
            raise CnlabError(self._hopeless(split))

    def _hopeless(self, split: Split) -> str:
        folder = self.config.folder
        files = [folder / b.file for b in split.blocks[: split.judged]]
        reasons = sum(split.copies.values(), Counter(str(r["reason"]) for file in files for r in read_rejects(file)))
        said = ", ".join(f"{name} {count}" for name, count in reasons.most_common(4))
        return (
            f"none of the first {sum(reasons.values())} candidates for {split.name} was accepted ({said}); "
            "look at the images, or relax the thresholds with --threshold or --screen"
        )


def _rows(split: Split) -> int:
    return sum(built.shard.rows for built in split.waiting.values())
