"""Threads on a CPU: results must not depend on how many there are, and small batches want cores side by side."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from dask.system import cpu_count

Part = TypeVar("Part")
Result = TypeVar("Result")


@contextlib.contextmanager
def one_thread(device: str) -> Iterator[None]:
    """On a CPU one thread an operation: a picture's bits then do not depend on how many there are."""
    before = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def side_by_side(function: Callable[[Part], Result], parts: Sequence[Part], device: str) -> list[Result]:
    """``function`` of every part, in order; on a CPU a part a core, each with one thread an operation.

    Operations release Python's lock. Nothing is recorded for gradients.
    """

    def run(part: Part) -> Result:
        with torch.inference_mode():
            return function(part)

    with one_thread(device), ThreadPoolExecutor(cpu_count() if device == "cpu" else 1) as threads:
        return list(threads.map(run, parts))
