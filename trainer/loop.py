"""The training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn

from trainer.config import Training
from trainer.data.items import Batch
from trainer.data.maps import to_hint
from trainer.nets.diffusion import diffusion_target, min_snr_weights, sample_latents
from trainer.nets.models import Prior
from trainer.parallel import gather_gradients
from trainer.schedule import learning_rate
from trainer.state.trained import Trained


@dataclass(frozen=True)
class Hooks:
    """What happens once in a while; each is called with the number of finished steps."""

    log: Callable[[int, dict[str, Tensor | float]], None]
    validate: Callable[[int], bool]  # True: stop here
    save: Callable[[int, bool], None]  # True: save now; False: if enough time has passed


class Denoiser(nn.Module):
    """Prior and ControlNet as one module, which is what is compiled and spread over devices."""

    def __init__(self, unet: UNet2DConditionModel, control: ControlNetModel, half: torch.dtype | None = None) -> None:
        """Holds references to both networks; ``half`` as in `predict`."""
        super().__init__()
        self.unet, self.control, self.amp = unet, control, half

    def forward(self, batch: Batch) -> Tensor:
        """`predict` with the ControlNet."""
        return predict(self.unet, self.control, batch, self.amp)


def predict(
    unet: UNet2DConditionModel, control: ControlNetModel | None, batch: Batch, half: torch.dtype | None = None
) -> Tensor:
    """The prior's prediction with the ControlNet's 13 outputs added to its skips and middle (paper, section 3.2).

    ``batch``: ``noisy`` (B, C, h, w), ``t`` (B,) int64, ``states`` (B, L, D), ``hint`` (B, 3, H, W) in [0, 1] or -1;
    for SDXL ``pooled`` (B, P) and ``time_ids`` (B, 6) too. ``half``: precision of products under autocast, for networks
    whose weights are fp32; a UNet whose own weights are in half precision computes in that, outside autocast.
    The frozen encoder records no gradients: neither its weights nor its inputs require any.
    """
    text: dict[str, Any] = {"encoder_hidden_states": batch["states"]}
    if "pooled" in batch:
        text["added_cond_kwargs"] = {"text_embeds": batch["pooled"], "time_ids": batch["time_ids"]}
    device = batch["noisy"].device.type
    autocast = torch.autocast(device, half) if half is not None else nullcontext()
    residuals: dict[str, Any] = {}
    if control is not None:
        with autocast:
            down, mid = control(batch["noisy"], batch["t"], controlnet_cond=batch["hint"], return_dict=False, **text)
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
    inputs = {"sample": batch["noisy"], **text, **residuals}
    if unet.dtype != torch.float32:
        inputs, autocast = _cast(inputs, unet.dtype), nullcontext()
    with autocast:
        prediction: Tensor = unet(timestep=batch["t"], **inputs).sample
    return prediction


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, dict):
        return {name: _cast(v, dtype) for name, v in value.items()}
    return value.to(dtype) if isinstance(value, Tensor) else [v.to(dtype) for v in value]


def prepare(prior: Prior, items: Batch, memory: torch.memory_format) -> tuple[Batch, Tensor]:
    """A micro-batch of `trainer.data.batches` on the device, noised: (`predict`'s batch, target (B, C, h, w))."""
    device = prior.unet.device
    items = {name: value.to(device, non_blocking=True) for name, value in items.items()}
    latents = sample_latents(items["moments"].float(), items["posterior"], prior.vae.config.scaling_factor)
    text = items["text"] if "text" in items else prior.encode_text(items["ids"]).float()
    hint = to_hint(items["hint"])
    batch = {
        "noisy": prior.scheduler.add_noise(latents, items["noise"], items["t"]).contiguous(memory_format=memory),
        "t": items["t"],
        "hint": hint.contiguous(memory_format=memory),
        **prior.text_conditions(text, hint.shape[-1]),
    }
    return batch, diffusion_target(prior.scheduler, latents, items["noise"], items["t"])


def train(
    denoiser: nn.Module,
    prior: Prior,
    trained: Trained,
    batches: Iterable[list[Batch]],
    training: Training,
    start: int,
    hooks: Hooks,
) -> None:
    """Run steps ``start`` ... ``training.steps`` - 1. Everything random is in ``batches``, a function of (seed, step).

    ``batches`` yields a step's micro-batches; the scaler also skips steps whose gradients are not finite.
    """
    settings, device = training.optimizer, prior.unet.device
    params, optimizer, scaler = trained.params, trained.optimizer, trained.scaler
    skipped = torch.zeros((), device=device)

    for step, micro_batches in enumerate(batches, start):
        # learning rate: a function of the step
        lr = learning_rate(step, training.lr, settings.warmup, training.steps, settings.schedule)
        for group in optimizer.param_groups:
            group["lr"] = lr

        # loss and gradients (paper, eq. 5; velocity for priors trained on it)
        loss = torch.zeros((), device=device)
        for number, items in enumerate(micro_batches, 1):
            batch, target = prepare(prior, items, trained.memory)
            with gather_gradients(denoiser, number == len(micro_batches)):
                errors = F.mse_loss(denoiser(batch).float(), target, reduction="none").mean((1, 2, 3))
                if settings.min_snr:
                    errors = errors * min_snr_weights(prior.scheduler, batch["t"], settings.min_snr)
                part = errors.mean() / len(micro_batches)
                scaler.scale(part).backward()
            loss += part.detach()

        # update; a step whose gradient is not finite is skipped and counted, without waiting for the device
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(params, settings.clip or float("inf"))
        scaler.step(optimizer)
        scaler.update(None if training.precision == "fp16" else 1.0)
        optimizer.zero_grad(set_to_none=True)
        skipped += ~torch.isfinite(norm)
        if trained.ema is not None:
            trained.ema.step(params)

        # once in a while: log, validate, save
        finished = step + 1
        last = finished == training.steps
        if finished % training.watch.log_every == 0 or last:
            hooks.log(finished, {"loss": loss, "grad_norm": norm, "lr": lr, "skipped": skipped})
        stop = (finished % training.validate_every == 0 or last) and hooks.validate(finished)
        hooks.save(finished, finished % training.save_every == 0 or last or stop)
        if stop:
            break
