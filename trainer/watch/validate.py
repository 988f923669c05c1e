"""Held-out loss at fixed noise and timesteps, with the true map, another sample's map, and no ControlNet.

The gap between the three says what the map is worth, which the training loss does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ControlNetModel
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from torch import Tensor

from trainer.data.batches import step_generator
from trainer.data.items import Batch, Items
from trainer.data.maps import to_hint
from trainer.loop import predict, prepare
from trainer.nets.models import Prior
from trainer.run_folder import COLUMNS

ARMS = ("true", "shuffled", "none")
VALIDATION_SEED = 90_210
BLOCK = 32  # samples whose noise comes from one generator
AT_ONCE = 8  # samples that pass the networks together, at most


def _blocks(items: Items, timesteps: int, at_once: int) -> Iterator[tuple[list[int], Batch]]:
    """Numbers of the samples and their batch, with noise and timesteps that are the same at every call."""
    for first in range(0, len(items), BLOCK):
        numbers = list(range(first, min(first + BLOCK, len(items))))
        generator = step_generator(VALIDATION_SEED, first)
        n, channels, *size = len(numbers), *items.moments.shape[1:]
        noise = {k: torch.randn((n, channels // 2, *size), generator=generator) for k in ("posterior", "noise")}
        noise["t"] = torch.randint(timesteps, (n,), generator=generator)
        for start in range(0, n, at_once):
            part = slice(start, start + at_once)
            yield numbers[part], {**items.take(numbers[part]), **{k: v[part] for k, v in noise.items()}}


@torch.no_grad()
def held_out_loss(
    control: ControlNetModel,
    prior: Prior,
    items: Items,
    other: NDArray[np.intp],
    arms: tuple[str, ...] = ARMS,
    half: torch.dtype | None = None,
    at_once: int = AT_ONCE,
) -> dict[str, Tensor]:
    """Per-sample loss (N,) of each arm, prompts undropped.

    ``other`` (N,): the sample whose map each one gets in the arm ``shuffled`` (`pipeline.fidelity.other_samples`);
    ``half``: precision of products, as in training.
    """
    training = control.training
    control.eval()
    losses: dict[str, list[Tensor]] = {arm: [] for arm in arms}
    for numbers, items_batch in _blocks(items, prior.scheduler.config.num_train_timesteps, at_once):
        batch, target = prepare(prior, items_batch, torch.channels_last)
        for arm in arms:
            own = batch
            if arm == "shuffled":
                wrong = items.take([int(other[i]) for i in numbers])["hint"]
                own = {**batch, "hint": to_hint(wrong.to(batch["hint"].device))}
            prediction = predict(prior.unet, None if arm == "none" else control, own, half).float()
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
