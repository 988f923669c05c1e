"""CPU seconds of set distances with their intervals, 2048 features a picture, one thread; rows of RESULTS.md."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import tyro

from benchmarks.record import record
from evaluation.metrics.frechet import frechet_estimate
from evaluation.metrics.intervals import Estimate
from evaluation.metrics.kernel import kernel_estimate
from evaluation.metrics.mind import mind_estimate

WIDTH = 2048
MEASURES: dict[str, Callable[..., Estimate]] = {
    "Frechet": frechet_estimate, "kernel": kernel_estimate, "MIND": mind_estimate,
}  # fmt: skip


def main(sizes: tuple[int, ...] = (1000, 5000)) -> None:
    """Each measure once a size: CPU time of this process, which other programs disturb less than the clock."""
    rng = np.random.default_rng(0)
    scale = np.arange(1, WIDTH + 1) ** -0.5
    for n in sizes:
        x, y = rng.normal(size=(2, n, WIDTH)) * scale
        for name, measure in MEASURES.items():
            began = time.process_time()
            measure(x, y + 0.1)
            record(
                f"{name} with interval, {WIDTH}-d, n = {n:,}", f"{time.process_time() - began:.2f} CPU-s, one thread"
            )


if __name__ == "__main__":
    tyro.cli(main)
