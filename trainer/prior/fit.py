"""The one loop behind the three prior recipes: resumable by the same command, EMA, cosine schedule."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm import tqdm

from trainer.data.batches import Order
from trainer.schedule import learning_rate
from trainer.state.checkpoint import (
    latest_checkpoint,
    load_optimizer,
    load_tensors,
    optimizer_tensors,
    read_state,
    save_checkpoint,
    save_tensors,
)

#: (step, generator) -> loss and further figures to log; the generator is seeded from (seed, step).
LossFunction = Callable[[int, torch.Generator], tuple[Tensor, dict[str, float]]]


@dataclass(frozen=True)
class FitConfig:
    """How long and how fast to fit. ``lr`` peaks after ``warmup`` steps and follows a cosine to lr / 20."""

    steps: int
    lr: float
    batch: int
    warmup: int = 200
    ema_decay: float = 0.999
    weight_decay: float = 0.01
    clip: float = 1.0
    save_every: int = 250
    seed: int = 0


def batch_indices(config: FitConfig, step: int, count: int) -> np.ndarray:
    """Which training samples step ``step`` sees, the same in every run."""
    return np.array(next(iter(Order(count, config.batch, config.seed, step, step + 1))))


def fit(name: str, folder: Path, model: nn.Module, loss_of: LossFunction, config: FitConfig) -> None:
    """Train ``model`` in place and leave its EMA weights in it.

    Checkpoints go to ``folder``/step-*; running again goes on from the newest, with the same batches and noise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=config.lr, betas=(0.9, 0.99), weight_decay=config.weight_decay, fused=True)
    ema = EMAModel(params, decay=config.ema_decay)
    start = 0
    if found := latest_checkpoint(folder):
        start = read_state(found)["step"]
        model.load_state_dict(load_tensors(found / "model.safetensors"))
        load_optimizer(optimizer, load_tensors(found / "optimizer.safetensors"))
        shadow = load_tensors(found / "ema.safetensors")
        ema.shadow_params = [shadow[str(i)] for i in range(len(params))]
        ema.optimization_step = start

    def write(place: Path) -> None:
        save_tensors(model.state_dict(), place / "model.safetensors")
        save_tensors(optimizer_tensors(optimizer), place / "optimizer.safetensors")
        save_tensors({str(i): p for i, p in enumerate(ema.shadow_params)}, place / "ema.safetensors")

    model.train()
    began, seen = time.perf_counter(), 0
    for step in (bar := tqdm(range(start, config.steps), initial=start, total=config.steps, desc=name, mininterval=5)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config.lr, config.warmup, config.steps, "cosine")
        loss, figures = loss_of(step, torch.Generator().manual_seed(config.seed * 1_000_003 + step))
        loss.backward()
        norm = nn.utils.clip_grad_norm_(params, config.clip)
        if torch.isfinite(norm):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.step(params)
        seen += config.batch
        if step % 20 == 0:
            row = {"step": step, "loss": loss.item(), "grad_norm": norm.item(), **figures}
            bar.set_postfix({k: f"{v:.4f}" for k, v in row.items() if k != "step"})
            with (folder / "log.jsonl").open("a") as log:
                log.write(json.dumps({**row, "samples_per_second": seen / (time.perf_counter() - began)}) + "\n")
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            save_checkpoint(folder, step + 1, write, {"name": name})
    ema.copy_to(params)
    model.eval()
