"""Held-out loss at fixed noise and timesteps, with the true map, another sample's map, and no ControlNet.

The gap between the three says what the map is worth, which the training loss does not.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ControlNetModel
from torch import Tensor

from trainer.data import Items
from trainer.loop import make_batch, predict, step_generator
from trainer.models import Prior

ARMS = ("true", "shuffled", "none")
VALIDATION_SEED = 90_210


def derangement(count: int, seed: int) -> np.ndarray:
    """A seeded permutation of ``count`` > 1 items that leaves none in its place (a random cyclic shift of an order)."""
    order = np.random.default_rng(seed).permutation(count)
    moved = np.empty(count, np.int64)
    moved[order] = np.roll(order, 1)
    return moved


@torch.inference_mode()
def held_out_loss(
    control: ControlNetModel, prior: Prior, items: Items, batch_size: int = 32, arms: tuple[str, ...] = ARMS
) -> dict[str, Tensor]:
    """Per-sample loss (N,) of each arm. Noise, timesteps and (undropped) prompts are the same at every call."""
    training = control.training
    control.eval()
    moved = derangement(len(items), VALIDATION_SEED) if len(items) > 1 else np.zeros(1, np.int64)
    empty = prior.tokenize([""])[0]
    losses: dict[str, list[Tensor]] = {arm: [] for arm in arms}
    for first in range(0, len(items), batch_size):
        picked = list(range(first, min(first + batch_size, len(items))))
        generator = step_generator(VALIDATION_SEED, first)
        batch, target = make_batch(prior, items.stack(picked), generator, empty, prompt_drop=0.0)
        other = items.stack([int(moved[i]) for i in picked])["hint"].to(batch["hint"].device)
        for arm in arms:
            given = {**batch, "hint": other} if arm == "shuffled" else batch
            prediction = predict(prior, None if arm == "none" else control, given)
            losses[arm].append(F.mse_loss(prediction, target, reduction="none").mean((1, 2, 3)).cpu())
    control.train(training)
    return {arm: torch.cat(parts) for arm, parts in losses.items()}
