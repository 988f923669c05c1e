"""Held-out loss at fixed noise and timesteps, with the true map, another sample's map, and no ControlNet.

The gap between the three says what the map is worth, which the training loss does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ControlNetModel
from numpy.typing import ArrayLike
from scipy import stats
from torch import Tensor

from trainer.data.items import Items, step_generator
from trainer.loop import predict, prepare
from trainer.nets.models import Prior
from trainer.run_folder import COLUMNS

ARMS = ("true", "shuffled", "none")
VALIDATION_SEED = 90_210


def derangement(count: int, seed: int) -> np.ndarray:
    """A seeded permutation of ``count`` > 1 items that leaves none in its place (a random cyclic shift of an order)."""
    order = np.random.default_rng(seed).permutation(count)
    moved = np.empty(count, np.int64)
    moved[order] = np.roll(order, 1)
    return moved


@torch.no_grad()
def held_out_loss(
    control: ControlNetModel, prior: Prior, items: Items, batch_size: int = 32, arms: tuple[str, ...] = ARMS
) -> dict[str, Tensor]:
    """Per-sample loss (N,) of each arm. Noise, timesteps and (undropped) prompts are the same at every call."""
    training = control.training
    control.eval()
    moved = derangement(len(items), VALIDATION_SEED) if len(items) > 1 else np.zeros(1, np.int64)
    steps = prior.scheduler.config.num_train_timesteps
    mixed = prior.unet.dtype != torch.float32
    cast = torch.autocast(prior.unet.device.type, prior.unet.dtype if mixed else torch.bfloat16, enabled=mixed)
    losses: dict[str, list[Tensor]] = {arm: [] for arm in arms}
    for first in range(0, len(items), batch_size):
        picked = list(range(first, min(first + batch_size, len(items))))
        generator = step_generator(VALIDATION_SEED, first)
        drawn = items.take(picked)
        n, channels, *size = drawn["moments"].shape
        drawn |= {k: torch.randn((n, channels // 2, *size), generator=generator) for k in ("posterior", "noise")}
        drawn["t"] = torch.randint(steps, (n,), generator=generator)
        batch, target = prepare(prior, drawn, torch.channels_last)
        other = items.take([int(moved[i]) for i in picked])["hint"].to(batch["hint"].device)
        for arm in arms:
            given = {**batch, "hint": other} if arm == "shuffled" else batch
            with cast:
                prediction = predict(prior.unet, None if arm == "none" else control, given).float()
            losses[arm].append(F.mse_loss(prediction, target, reduction="none").mean((1, 2, 3)).cpu())
    control.train(training)
    return {arm: torch.cat(parts) for arm, parts in losses.items()}


def validation_rows(step: int, images: int, metric: str, arms: Mapping[str, ArrayLike]) -> list[dict[str, Any]]:
    """Rows of validation.parquet from per-sample numbers (n,) of each arm: mean with its 95 % t interval.

    With the arms ``true`` and ``shuffled`` comes an arm ``gap``: by how much, sample by sample, the true map is better.
    """
    rows, numbers_of = [], dict(arms)
    if {"true", "shuffled"} <= arms.keys():
        gain = np.asarray(arms["true"]) - np.asarray(arms["shuffled"])
        numbers_of["gap"] = -gain if metric == "loss" else gain
    for arm, numbers in numbers_of.items():
        values = np.asarray(numbers, dtype=np.float64)
        mean, n = float(values.mean()), len(values)
        half = float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
        rows.append(dict(zip(COLUMNS, (step, images, metric, arm, mean, mean - half, mean + half, n), strict=True)))
    return rows
