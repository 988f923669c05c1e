"""The one loop behind the prior's recipes: resumable and extended by the same command, EMA, several processes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm import tqdm

from pipeline.contract.errors import CnlabError
from pipeline.contract.files import remove, remove_parts
from trainer.data.batches import Order
from trainer.parallel import Ranks
from trainer.schedule import fall_start, learning_rate
from trainer.state.checkpoint import (
    list_checkpoints,
    load_optimizer,
    load_tensors,
    optimizer_tensors,
    read_state,
    save_checkpoint,
    save_tensors,
)

#: (step, generator) -> loss and further figures to log; the generator is seeded from (seed, step), equally in every
#: process, so that a recipe draws for the whole batch and then takes its `part_of_batch`.
LossFunction = Callable[[int, torch.Generator], tuple[Tensor, dict[str, float]]]
ONE = Ranks()
BEFORE_FALL = "before-fall"  # where the last checkpoint of a constant rate stays, for longer runs


@dataclass(frozen=True)
class FitConfig:
    """How long and how fast to fit. ``lr`` peaks after ``warmup`` steps and follows ``schedule`` (`learning_rate`)."""

    steps: int
    lr: float
    batch: int
    warmup: int = 200
    ema_decay: float = 0.999
    weight_decay: float = 0.01
    clip: float = 1.0
    save_every: int = 250
    seed: int = 0
    schedule: Literal["cosine", "trapezoid"] = "cosine"
    milestones: tuple[int, ...] = ()  # steps whose averaged weights stay for good, as ema-*.safetensors


class Task(NamedTuple):
    """What to train: a name, the module that holds every trained parameter, its loss and its schedule."""

    name: str
    model: nn.Module
    loss_of: LossFunction
    config: FitConfig


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


def seconds_per_step(task: Task, steps: int = 2) -> float:
    """How long one step of ``task`` takes here, by the fastest of ``steps`` forward and backward passes."""
    times = []
    for step in range(steps + 1):  # the first one warms up
        start = time.perf_counter()
        task.loss_of(step, torch.Generator().manual_seed(step))[0].backward()
        times.append(time.perf_counter() - start)
    task.model.zero_grad(set_to_none=True)
    return min(times[1:])


def steps_left(config: FitConfig, folder: Path) -> int:
    """Steps that training below ``folder`` still has to do."""
    newest = _newest(config, folder) if folder.is_dir() else None
    return config.steps - (read_state(newest)["step"] if newest else 0)


def _serves(config: FitConfig, place: Path) -> bool:
    """Whether ``config`` can go on from a checkpoint: in the fall of a trapezoid, only one of as many steps."""
    state = read_state(place)
    total = state.get("steps", config.steps)
    same = config.schedule != "trapezoid" or total == config.steps
    return same or state["step"] <= fall_start(min(total, config.steps))


def _newest(config: FitConfig, folder: Path) -> Path | None:
    """The newest checkpoint below ``folder`` that ``config`` can go on from."""
    places = [*list_checkpoints(folder / BEFORE_FALL), *list_checkpoints(folder)]
    return max((p for p in places if _serves(config, p)), key=lambda p: p.name, default=None)


class _Weights:
    """Parameters of a task with optimizer and EMA, and how they are written and read."""

    def __init__(self, task: Task) -> None:
        config = task.config
        self.task = task
        self.params = [p for p in task.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.params, lr=config.lr, betas=(0.9, 0.99), weight_decay=config.weight_decay, fused=True
        )
        self.ema = EMAModel(self.params, decay=config.ema_decay)

    def read(self, place: Path) -> int:
        """Put a checkpoint back; returns its step."""
        step = int(read_state(place)["step"])
        self.task.model.load_state_dict(load_tensors(place / "model.safetensors"))
        load_optimizer(self.optimizer, load_tensors(place / "optimizer.safetensors"))
        shadow = load_tensors(place / "ema.safetensors")
        self.ema.shadow_params = [shadow[str(i)] for i in range(len(self.params))]
        self.ema.optimization_step = step
        return step

    def write(self, place: Path) -> None:
        """Everything that going on needs, as safetensors."""
        save_tensors(self.task.model.state_dict(), place / "model.safetensors")
        save_tensors(optimizer_tensors(self.optimizer), place / "optimizer.safetensors")
        save_tensors({str(i): p for i, p in enumerate(self.ema.shadow_params)}, place / "ema.safetensors")

    def step(self, rate: float, ranks: Ranks) -> float:
        """One update from the gradients at hand; returns their norm."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        average_gradients(self.params, ranks)
        norm = nn.utils.clip_grad_norm_(self.params, self.task.config.clip)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.step(self.params)
        return norm.item()

    def write_average(self, path: Path) -> None:
        """The averaged weights alone, under the model's own names."""
        self.ema.store(self.params)
        self.ema.copy_to(self.params)
        save_tensors(self.task.model.state_dict(), path)
        self.ema.restore(self.params)


def fit(task: Task, folder: Path, ranks: Ranks = ONE) -> None:
    """Train the task's model in place and leave its EMA weights in it.

    Checkpoints go to ``folder``/step-*; running again goes on from the newest, with the same batches and noise. A
    "trapezoid" of more steps than before goes on from where the rate began to fall. With several ``ranks``, each
    computes the loss of its part of a batch; the first alone writes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config, weights = task.config, _Weights(task)
    for place in (folder, folder / BEFORE_FALL):
        remove_parts(place)
    newest = _newest(config, folder)
    ranks.wait()  # every process has looked
    for place in list_checkpoints(folder) if ranks.first else ():
        if not _serves(config, place):
            remove(place)
    start = weights.read(newest) if newest else 0
    task.model.train()
    began = time.perf_counter()
    state = {"name": task.name, "steps": config.steps}
    steps = range(start, config.steps)
    bar = tqdm(steps, task.name, total=config.steps, initial=start, mininterval=5, disable=not ranks.first)
    for step in bar:
        loss, figures = task.loss_of(step, torch.Generator().manual_seed(config.seed * 1_000_003 + step))
        loss.backward()
        norm = weights.step(learning_rate(step, config.lr, config.warmup, config.steps, config.schedule), ranks)
        if not ranks.first:
            continue
        if step % 20 == 0:
            row = {"step": step, "loss": loss.item(), "grad_norm": norm, **figures}
            bar.set_postfix({k: f"{v:.4f}" for k, v in row.items() if k != "step"})
            speed = (step + 1 - start) * config.batch / (time.perf_counter() - began)
            with (folder / "log.jsonl").open("a") as log:
                log.write(json.dumps({**row, "samples_per_second": speed}) + "\n")
        if (step + 1) in config.milestones:
            weights.write_average(folder / f"ema-{step + 1:07d}.safetensors")
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            save_checkpoint(folder, step + 1, weights.write, state)
        if config.schedule == "trapezoid" and step + 1 == fall_start(config.steps):
            save_checkpoint(folder / BEFORE_FALL, step + 1, weights.write, state, count=1)
    weights.ema.copy_to(weights.params)
    task.model.eval()
