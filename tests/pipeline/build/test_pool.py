"""The pools that blocks are built in, and which block is built next."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pipeline.build.blocks import Block, Built, build_block
from pipeline.build.pool import ENVIRONMENT, METHOD, LocalPool, open_pool, stream
from pipeline.build.schedule import cut
from pipeline.config import BuildPlan, DatasetConfig
from pipeline.contract.dataset import Shard

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:.*port.*already in use:UserWarning")


class Counting(LocalPool):
    """Remembers how many calls were under way at most."""

    width = 3
    now = most = 0

    def submit(self, function, *arguments) -> None:  # type: ignore[no-untyped-def]
        super().submit(function, *arguments)
        self.now += 1
        self.most = max(self.most, self.now)

    def result(self):  # type: ignore[no-untyped-def]
        self.now -= 1
        return super().result()


def test_a_stream_gives_every_result_and_never_has_more_under_way_than_the_width() -> None:
    pool = Counting()
    assert sorted(stream(pool, pow, [(2, n) for n in range(10)])) == [2**n for n in range(10)]
    assert pool.most == 3
    assert list(stream(LocalPool(), pow, [])) == []


def built(block: Block, rows: int) -> Built:
    return Built(block, Shard(block.file, block.split, rows, ""), [], set())


def test_no_more_blocks_are_asked_for_than_the_wanted_number_needs() -> None:
    split = cut("train", [str(i) for i in range(100)], size=20, block=10)
    assert len(split.blocks) == 10
    sent = [split.next_block(), split.next_block()]
    assert [b.number for b in sent if b] == [0, 1]
    assert split.next_block() is None  # two blocks of ten will do, as far as is known


def test_blocks_that_lose_rows_are_made_up_for_before_the_others_are_finished() -> None:
    split = cut("train", [str(i) for i in range(100)], size=20, block=10)
    first, _ = split.next_block(), split.next_block()
    assert first is not None
    split.waiting[0] = built(first, 6)
    split.candidates, split.passed = 10, 6  # at this rate the second brings six more: 12 of 20
    assert [b.number for b in (split.next_block(), split.next_block()) if b] == [2, 3]  # 24 of 20
    assert split.next_block() is None


def test_candidates_run_out() -> None:
    split = cut("eval", ["a", "b", "c"], size=10, block=2)
    assert [len(b.keys) for b in split.blocks] == [2, 1]
    assert [split.next_block() is None for _ in range(3)] == [False, False, True]
    split.judged = 2
    assert split.complete


def surroundings(block: Block, config: BuildPlan) -> dict[str, object]:
    """What a worker has around it after a block."""
    import cv2

    build_block(block, config, "id")
    heavy = {"torch", "datasets", "transformers", "bokeh"}
    return {
        "environment": {name: os.environ.get(name) for name in ENVIRONMENT},
        "threads": cv2.getNumThreads(),
        "heavy": sorted(heavy & set(sys.modules)),
        "from": sys.modules["pipeline.build.blocks"].__file__,
    }


@pytest.mark.skipif(METHOD != "forkserver", reason="workers are spawned here")
def test_workers_have_one_thread_keep_their_memory_and_import_nothing_heavy(tmp_path: Path) -> None:
    import pipeline.build.blocks

    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    config = DatasetConfig(out=tmp_path, image_size=64, workers=1).resolve()
    with open_pool(config) as pool:
        pool.submit(surroundings, Block("train", 0, 0, ("tabletop-1-000001",)), config)
        found = pool.result()
        assert pool.width == 2
    assert found["environment"] == ENVIRONMENT
    assert found["threads"] == 1
    assert found["heavy"] == []
    assert found["from"] == pipeline.build.blocks.__file__
    assert {name: os.environ.get(name) for name in ENVIRONMENT} == before
