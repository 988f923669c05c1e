"""Fit a line in as many processes as torchrun starts: ``torchrun prior_fit_driver.py FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from trainer.parallel import Ranks, launched
from trainer.prior.fit import FitConfig, Task, batch_indices, fit, part_of_batch

CONFIG = FitConfig(steps=8, lr=0.05, batch=4, warmup=2, ema_decay=0.5, save_every=4)


def fit_line(folder: Path, ranks: Ranks) -> None:
    """Fit x -> 2 x + 1 with noise that is drawn for the whole batch."""
    torch.manual_seed(0)
    model = torch.nn.Linear(1, 1)
    x = torch.linspace(-1, 1, 12)[:, None]
    part = part_of_batch(ranks, CONFIG.batch)

    def loss_of(step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        pick = batch_indices(CONFIG, step, len(x))
        target = 2 * x[pick] + 1 + 0.1 * torch.randn(len(pick), 1, generator=generator)
        return (model(x[pick[part]]) - target[part]).square().mean(), {}

    fit(Task("line", model, loss_of, CONFIG), folder, ranks)


if __name__ == "__main__":
    with launched("cpu") as (ranks, _):
        fit_line(Path(sys.argv[1]), ranks)
