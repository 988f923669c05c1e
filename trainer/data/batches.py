"""A step's micro-batches as a function of (seed, step), and the processes that load them ahead of the loop."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from dask.system import cpu_count
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from pipeline.contract.errors import CnlabError
from trainer.data.items import Batch, Items

AHEAD = 2**30  # bytes that loading processes may hold ready for one rank
WORKERS = 8  # loading processes a rank, at most
SHM = Path("/dev/shm")  # where they hand batches over


def step_generator(seed: int, step: int) -> torch.Generator:
    """All randomness of one step, drawn on the CPU so that it is the same on every device."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)


@dataclass(frozen=True)
class Draw:
    """How a step's randomness is drawn."""

    batch: int  # images a step
    seed: int
    timesteps: int  # of the noise schedule
    prompt_drop: float = 0.0
    flip: bool = False


@dataclass(frozen=True)
class Batches(Dataset[list[Batch]]):
    """Step -> its micro-batches on this rank, with noise, timesteps, dropped prompts and flips drawn.

    The draws are made for the whole batch and then shared out, so what a step computes depends neither on the number
    of devices nor on the number of micro-batches.
    """

    items: Items
    draw: Draw
    accumulate: int = 1
    rank: int = 0
    world: int = 1

    def __getitem__(self, step: int) -> list[Batch]:
        """Each micro-batch: `Items.take`, and ``posterior`` and ``noise`` (B, C, h, w), ``t`` (B,) int64."""
        draw, generator = self.draw, step_generator(self.draw.seed, step)
        numbers = next(iter(Order(len(self.items), draw.batch, draw.seed, step, step + 1)))
        channels, *size = self.items.moments.shape[1:]
        posterior, noise = (torch.randn((draw.batch, channels // 2, *size), generator=generator) for _ in range(2))
        t = torch.randint(draw.timesteps, (draw.batch,), generator=generator)
        dropped = torch.rand(draw.batch, generator=generator) < draw.prompt_drop
        flips = torch.rand(draw.batch, generator=generator) < (0.5 if draw.flip else 0.0)
        captions = None if self.items.starts is None else torch.rand(draw.batch, generator=generator)
        share = draw.batch // (self.world * self.accumulate)
        parts = []
        for micro in range(self.accumulate):
            first = (micro * self.world + self.rank) * share
            own = slice(first, first + share)
            words = None if captions is None else captions[own]
            micro_batch = self.items.take(numbers[own], dropped[own], flips[own], words)
            # copies: a view would take the whole batch's noise to every rank and micro-batch
            parts.append({**micro_batch, "posterior": posterior[own].clone(), "noise": noise[own].clone(), "t": t[own]})
        return parts

    @property
    def step_bytes(self) -> int:
        """Bytes of one step's micro-batches on this rank, by its first sample."""
        sample = Batches(self.items, Draw(1, 0, self.draw.timesteps))[0][0]
        return sum(v.numel() * v.element_size() for v in sample.values()) * self.draw.batch // self.world


class Order(Sampler[list[int]]):
    """Batches of a seeded permutation per epoch, from any step on: step k sees the same samples in every run."""

    def __init__(self, count: int, batch: int, seed: int, start: int, stop: int) -> None:
        self.count, self.batch, self.seed, self.start, self.stop = count, batch, seed, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.stop):
            places = (divmod(i, self.count) for i in range(step * self.batch, (step + 1) * self.batch))
            yield [int(_epoch_order(self.count, self.seed, epoch)[position]) for epoch, position in places]


@lru_cache(maxsize=4)
def _epoch_order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)


@dataclass(frozen=True)
class LookAhead:
    """How many steps are loaded ahead: ``workers`` processes with ``prefetch`` steps each; 0: none."""

    workers: int
    prefetch: int

    def bytes(self, step_bytes: int) -> int:
        """Bytes of all steps that may wait at once."""
        return self.workers * self.prefetch * step_bytes


def look_ahead(step_bytes: int, local_world: int = 1, limit: int = AHEAD) -> LookAhead:
    """Loading processes by the cores this process may use and the ranks it shares them with, steps by their bytes.

    At least one process loads one step ahead. Raises CnlabError when /dev/shm cannot hold that.
    """
    workers = min(WORKERS, max(cpu_count() // local_world - 1, 1), max(limit // step_bytes, 1))
    ahead = LookAhead(workers, max(min(limit // (workers * step_bytes), 4), 1))
    if not SHM.is_dir():
        return ahead
    free = shutil.disk_usage(SHM).free // local_world
    if ahead.bytes(step_bytes) > free:
        ahead = LookAhead(1, 1)
        if 2 * step_bytes > free:  # one that waits and one that is being loaded
            raise CnlabError(
                f"{SHM} has {free / 2**20:.0f} MB free for a rank, a step's batch needs {2 * step_bytes / 2**20:.0f}; "
                "enlarge it (docker run --shm-size=8g, or mount -o remount,size=8g /dev/shm) or lower --batch"
            )
    return ahead


def load_batches(source: Batches, start: int, stop: int, cuda: bool, folder: Path) -> Iterator[list[Batch]]:
    """Micro-batches of the steps ``start`` ... ``stop`` - 1; raises CnlabError when a loading process dies.

    Where the model computes on the CPU, loading processes would only take its threads: there are none.
    """
    local = int(os.environ.get("LOCAL_WORLD_SIZE", source.world))
    ahead = look_ahead(source.step_bytes, local) if cuda else LookAhead(0, 0)
    loader = DataLoader(
        source,
        batch_size=None,
        sampler=range(start, stop),
        num_workers=ahead.workers,
        pin_memory=ahead.workers > 0,
        prefetch_factor=ahead.prefetch or None,
    )
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise CnlabError(
            f"{folder}: a data-loading process died ({error}); run the same command again, and if it dies again "
            "give the machine more memory or a larger /dev/shm"
        ) from error
