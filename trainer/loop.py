"""The training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ControlNetModel
from torch import Tensor, nn

from trainer.config import TrainConfig
from trainer.diffusion import diffusion_target, sample_latents
from trainer.models import Prior
from trainer.schedule import learning_rate


@dataclass(frozen=True)
class Hooks:
    """What happens once in a while; each is called with the number of finished steps."""

    log: Callable[[int, dict[str, float]], None]
    validate: Callable[[int], None]
    sample: Callable[[int], None]
    save: Callable[[int], None]


def step_generator(seed: int, step: int) -> torch.Generator:
    """All randomness of one step, drawn on the CPU so that it is the same on every device."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)


def predict(prior: Prior, control: ControlNetModel | None, batch: dict[str, Tensor]) -> Tensor:
    """The prior's prediction with the ControlNet's 13 outputs added to its skips and middle (paper, section 3.2).

    batch: ``noisy`` (B, C, h, w), ``t`` (B,) int64, ``states`` (B, L, D), ``hint`` (B, 3, H, W) in [0, 1].
    The frozen encoder records no gradients: neither its weights nor its inputs require any.
    """
    noisy, t, states = batch["noisy"], batch["t"], batch["states"]
    extra: dict[str, Any] = {}
    if control is not None:
        down, mid = control(noisy, t, encoder_hidden_states=states, controlnet_cond=batch["hint"], return_dict=False)
        extra = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
    prediction: Tensor = prior.unet(noisy, t, encoder_hidden_states=states, **extra).sample
    return prediction


def make_batch(
    prior: Prior, items: dict[str, Tensor], generator: torch.Generator, empty: Tensor, prompt_drop: float
) -> tuple[dict[str, Tensor], Tensor]:
    """Draw noise, timesteps and dropped prompts for one batch; returns (`predict`'s batch, target (B, C, h, w)).

    ``empty`` (L,) are the token ids of "". Dropping is redrawn at every visit of a sample.
    """
    device, n = prior.unet.device, len(items["ids"])
    shape = (n, items["moments"].shape[1] // 2, *items["moments"].shape[2:])
    posterior, noise = (torch.randn(shape, generator=generator).to(device) for _ in range(2))
    t = torch.randint(prior.scheduler.config.num_train_timesteps, (n,), generator=generator).to(device)
    dropped = torch.rand(n, generator=generator) < prompt_drop
    ids = torch.where(dropped[:, None], empty[None], items["ids"])
    latents = sample_latents(items["moments"].to(device), posterior, prior.vae.config.scaling_factor)
    batch = {
        "noisy": prior.scheduler.add_noise(latents, noise, t).contiguous(memory_format=torch.channels_last),
        "t": t,
        "states": prior.encode_text(ids.to(device)),
        "hint": items["hint"].to(device).contiguous(memory_format=torch.channels_last),
    }
    return batch, diffusion_target(prior.scheduler, latents, noise, t)


def train(
    control: ControlNetModel,
    prior: Prior,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[dict[str, Tensor]],
    config: TrainConfig,
    start: int,
    hooks: Hooks,
) -> None:
    """Run steps ``start`` ... ``config.steps`` - 1. Everything random is a function of (seed, step)."""
    assert config.steps is not None and config.lr is not None and config.warmup is not None and config.schedule
    params = [p for p in control.parameters() if p.requires_grad]
    empty = prior.tokenize([""])[0]
    cast = torch.autocast(prior.unet.device.type, torch.bfloat16, enabled=config.precision == "bf16")

    for step, items in enumerate(batches, start):
        # learning rate: a function of the step
        lr = learning_rate(step, config.lr, config.warmup, config.steps, config.schedule)
        for group in optimizer.param_groups:
            group["lr"] = lr

        # loss and gradients (paper, eq. 5; velocity for priors trained on it)
        batch, target = make_batch(prior, items, step_generator(config.seed, step), empty, config.prompt_drop)
        with cast:
            prediction = predict(prior, control, batch)
        loss = F.mse_loss(prediction.float(), target)
        loss.backward()

        # update; a step whose gradient is not finite is skipped and recorded
        norm = nn.utils.clip_grad_norm_(params, config.clip)
        if torch.isfinite(norm):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        # once in a while: log, validate, sample, save
        done = step + 1
        last = done == config.steps
        if done % config.log_every == 0 or last or not torch.isfinite(norm):
            hooks.log(done, {"loss": loss.item(), "grad_norm": norm.item(), "lr": lr})
        if done % config.validate_every == 0 or last:
            hooks.validate(done)
        if config.sample_every and (done % config.sample_every == 0 or last):
            hooks.sample(done)
        if done % config.save_every == 0 or last:
            hooks.save(done)
