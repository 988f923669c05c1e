"""A run of a few small steps, for tests of what happens to runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainer.config import HintOptions, OptimizerOptions, TrainConfig, WatchOptions


def small_run(model: Path, dataset: Path, out: Path, **options: Any) -> TrainConfig:
    """On the CPU with two steps of warmup, held-out losses of four samples and no pictures."""
    usual: dict[str, Any] = {
        "name": "run", "batch": 2, "lr": 1e-3, "save_every": 2, "validate_every": 2, "device": "cpu",
        "hint": HintOptions((8, 8, 8, 8)), "optimizer": OptimizerOptions(warmup=2),
        "watch": WatchOptions(log_every=1, loss_samples=4, fidelity_samples=0),
    }  # fmt: skip
    return TrainConfig(dataset=dataset, model=str(model), out=out, **{**usual, **options})
