"""The schedule of a build: which block is next, which are judged, what the ledger records.

Blocks of both splits are built side by side and finished in any order; they are judged in rank order, eval first, so
what is decided does not depend on when anything was finished.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.build.blocks import Block, Built, Settled, build_block, settle_block
from pipeline.build.pool import Pool
from pipeline.build.shards import read_rejects
from pipeline.config import BuildPlan
from pipeline.contract.dataset import Shard
from pipeline.contract.errors import CnlabError
from pipeline.screen.checks import advice
from pipeline.screen.duplicates import Index, judge, reason_of

GIVE_UP = 2048  # candidates without a single good one: the thresholds do not fit this source


class NothingTakenError(CnlabError):
    """All candidates of a split were judged and none was taken: no shard of this build is of use to any other."""


class Ledger:
    """Finished shards and their sha256, a line each as they are finished; a killed build trusts only these."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sums: dict[str, str] = {}
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        for line in lines:
            try:
                entry = json.loads(line)
                self.sums[entry["file"]] = entry["sha256"]
            except (ValueError, KeyError, TypeError):  # torn by a kill: that shard is made again
                continue

    def add(self, shard: Shard) -> None:
        """Append; the leading line break ends a line that a kill may have torn."""
        if self.sums.get(shard.file) != shard.sha256:
            with self.path.open("a") as out:
                out.write("\n" + json.dumps({"file": shard.file, "sha256": shard.sha256}))
        self.sums[shard.file] = shard.sha256


@dataclass
class Split:
    """How far one split is."""

    name: str
    blocks: list[Block]
    size: int  # rows to accept
    sent: int = 0  # blocks handed out
    judged: int = 0  # blocks judged, in rank order
    accepted: int = 0  # rows of those
    candidates: int = 0  # of blocks that are built
    passed: int = 0  # rows of those, copies among them
    waiting: dict[int, Built] = field(default_factory=dict)  # built, not judged
    copies: dict[int, Counter[str]] = field(default_factory=dict)  # of blocks that are being settled
    shards: dict[int, Shard] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Nothing is left to judge."""
        return self.accepted >= self.size or self.judged == len(self.blocks)

    def next_block(self) -> Block | None:
        """The next to build; None while those under way will probably do, at the rate of acceptance so far."""
        if self.complete or self.sent == len(self.blocks):
            return None
        rate = self.passed / self.candidates if self.candidates else 1.0
        in_flight = self.blocks[self.judged : self.sent]
        expected = sum(
            self.waiting[b.number].shard.rows if b.number in self.waiting else rate * len(b.keys) for b in in_flight
        )
        if self.accepted + expected >= self.size:
            return None
        self.sent += 1
        return self.blocks[self.sent - 1]


def cut(name: str, keys: list[str], size: int, block: int) -> Split:
    """A split of ``size`` rows from ``keys`` in rank order, in blocks of at most ``block`` candidates."""
    block = min(block, size)
    firsts = range(0, len(keys), block)
    return Split(name, [Block(name, n, i, tuple(keys[i : i + block])) for n, i in enumerate(firsts)], size)


@dataclass
class Schedule:
    """A build under way, in the process that leads it."""

    plan: BuildPlan
    fingerprint: str
    pool: Pool
    ledger: Ledger
    index: Index
    in_flight: int = 0

    def run(self, splits: list[Split]) -> list[Shard]:
        """Build blocks until each split has its number of rows or no candidates are left; splits are judged in turn."""
        total = sum(min(s.size, sum(len(b.keys) for b in s.blocks)) for s in splits)
        with tqdm(total=total, desc="build", unit="img", mininterval=1) as bar:
            while self._send(splits):
                self._receive(self.pool.result(), {s.name: s for s in splits})
                self._judge(splits)
                bar.update(min(sum(min(s.accepted + _rows(s), s.size) for s in splits), total) - bar.n)
        return [shard for s in splits for _, shard in sorted(s.shards.items())]

    def _send(self, splits: list[Split]) -> int:
        """Keep the pool busy; returns how many calls are under way."""
        width = self.pool.width
        for split in splits:
            while self.in_flight < width and (block := split.next_block()):
                self._submit(build_block, block, self.plan, self.fingerprint, self.ledger.sums.get(block.file))
        return self.in_flight

    def _submit(self, *call: Any) -> None:
        self.pool.submit(*call)
        self.in_flight += 1

    def _receive(self, result: Built | Settled, splits: dict[str, Split]) -> None:
        self.in_flight -= 1
        block, shard = result.block, result.shard
        split = splits[block.split]
        self.ledger.add(shard)
        if isinstance(result, Built):
            split.waiting[block.number] = result
            split.candidates += len(block.keys)
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
        block, shard, signatures, copies = built
        room = split.size - split.accepted
        twins = judge(self.index, signatures, copies, split.name, room)
        if twins or shard.rows > room:
            split.copies[block.number] = Counter(reason_of(twin)[0] for twin in twins.values())
            rejected = {s.rank: (twins[s.rank], s.look) for s in signatures if s.rank in twins}
            self._submit(settle_block, block, shard, self.plan, self.fingerprint, rejected, room)
        else:
            split.shards[block.number] = shard
        split.accepted += min(room, shard.rows - len(twins))
        split.judged += 1
        if not split.accepted and block.first + len(block.keys) >= GIVE_UP:
            raise NothingTakenError(self._rejection_message(split))

    def _rejection_message(self, split: Split) -> str:
        folder = self.plan.folder
        files = [folder / b.file for b in split.blocks[: split.judged]]
        reasons = sum(split.copies.values(), Counter(str(r["reason"]) for file in files for r in read_rejects(file)))
        why = ", ".join(f"{name} {count}" for name, count in reasons.most_common(4))
        return (
            f"none of the first {sum(reasons.values())} candidates for {split.name} was accepted ({why}); "
            f"{advice(reasons, 0, self.plan.limits) or 'look at the images'}"
        )


def _rows(split: Split) -> int:
    return sum(built.shard.rows for built in split.waiting.values())
