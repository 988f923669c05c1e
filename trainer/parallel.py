"""Several devices, as torchrun and accelerate start them: one process each, told apart by RANK."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.contract.errors import CnlabError

PATIENCE = timedelta(hours=4)  # the other ranks wait while the first encodes latents, validates and saves


@dataclass(frozen=True)
class Ranks:
    """One process among those that train together."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """The one that writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.world > 1:
            dist.barrier()

    def broadcast(self, verdict: bool, device: torch.device) -> bool:
        """The first rank's verdict, on every rank."""
        if self.world == 1:
            return verdict
        flag = torch.tensor(int(verdict), device=device)
        dist.broadcast(flag, 0)
        return bool(flag.item())

    def least(self, value: int, device: torch.device) -> int:
        """The smallest of the ranks' values, on every rank."""
        if self.world == 1:
            return value
        number = torch.tensor(value, dtype=torch.int64, device=device)
        dist.all_reduce(number, dist.ReduceOp.MIN)
        return int(number.item())

    def mean(self, value: Tensor) -> Tensor:
        """Mean over the ranks of a scalar."""
        if self.world > 1:
            value = value.clone()
            dist.all_reduce(value)
            value /= self.world
        return value

    def wrap(self, model: nn.Module) -> nn.Module:
        """Gradients averaged over the ranks while they are computed."""
        if self.world == 1:
            return model
        return nn.parallel.DistributedDataParallel(model)

    @contextlib.contextmanager
    def in_turn(self) -> Iterator[None]:
        """The first rank alone, then the others: for files that one makes and all read."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()


ALONE = Ranks()


@contextlib.contextmanager
def launched(device: str) -> Iterator[tuple[Ranks, torch.device]]:
    """The ranks of this launch and this one's device; a plain start is one rank.

    ``device``: auto takes CUDA where there is one, a GPU a rank; raises CnlabError when the wanted one is missing.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise CnlabError(f"device {device!r} must be auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise CnlabError("device cuda was asked for, but torch sees none; use --device cpu")
    cuda = device != "cpu" and torch.cuda.is_available()
    world, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    if cuda and local >= torch.cuda.device_count():
        raise CnlabError(f"{world} processes were launched for {torch.cuda.device_count()} GPUs")
    own_device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(own_device)
    if world == 1:
        yield Ranks(), own_device
        return
    dist.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
    try:
        yield Ranks(dist.get_rank(), world), own_device
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def gather_gradients(model: nn.Module, now: bool) -> Iterator[None]:
    """Average gradients over the ranks only in the last micro-batch of a step (``now``)."""
    if now or not isinstance(model, nn.parallel.DistributedDataParallel):
        yield
        return
    with model.no_sync():
        yield
