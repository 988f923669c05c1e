"""The one loop behind the prior's recipes: resumable by the same command, EMA, cosine schedule, several processes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm import tqdm

from pipeline.io import CnlabError
from trainer.checkpoint import (
    latest_checkpoint,
    load_optimizer,
    load_tensors,
    optimizer_tensors,
    read_state,
    save_checkpoint,
    save_tensors,
)
from trainer.data import Order
from trainer.parallel import Ranks
from trainer.schedule import learning_rate

#: (step, generator) -> loss and further figures to log; the generator is seeded from (seed, step), equally in every
#: process, so that a recipe draws for the whole batch and then takes its `part_of_batch`.
LossFunction = Callable[[int, torch.Generator], tuple[Tensor, dict[str, float]]]
ONE = Ranks()


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


def part_of_batch(ranks: Ranks, batch: int) -> slice:
    """Which samples of a batch this process trains on. Raises CnlabError if they cannot be shared out equally."""
    if batch % ranks.world:
        raise CnlabError(f"a batch of {batch} cannot be split equally over {ranks.world} processes")
    return slice(ranks.rank, None, ranks.world)


def average_gradients(params: list[nn.Parameter], ranks: Ranks) -> None:
    """Replace every gradient by its mean over the processes, in one message."""
    if ranks.world == 1:
        return
    gradients = [p.grad for p in params if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= ranks.world
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def fit(
    name: str, folder: Path, model: nn.Module, loss_of: LossFunction, config: FitConfig, ranks: Ranks = ONE
) -> None:
    """Train ``model`` in place and leave its EMA weights in it.

    Checkpoints go to ``folder``/step-*; running again goes on from the newest, with the same batches and noise. With
    several ``ranks``, each computes the loss of its part of a batch; the first alone writes.
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
    steps = range(start, config.steps)
    bar = tqdm(steps, name, total=config.steps, initial=start, mininterval=5, disable=not ranks.first)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config.lr, config.warmup, config.steps, "cosine")
        loss, figures = loss_of(step, torch.Generator().manual_seed(config.seed * 1_000_003 + step))
        loss.backward()
        average_gradients(params, ranks)
        norm = nn.utils.clip_grad_norm_(params, config.clip)
        if torch.isfinite(norm):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.step(params)
        seen += config.batch
        if step % 20 == 0 and ranks.first:
            row = {"step": step, "loss": loss.item(), "grad_norm": norm.item(), **figures}
            bar.set_postfix({k: f"{v:.4f}" for k, v in row.items() if k != "step"})
            with (folder / "log.jsonl").open("a") as log:
                log.write(json.dumps({**row, "samples_per_second": seen / (time.perf_counter() - began)}) + "\n")
        if ranks.first and ((step + 1) % config.save_every == 0 or step + 1 == config.steps):
            save_checkpoint(folder, step + 1, write, {"name": name})
    ema.copy_to(params)
    model.eval()
