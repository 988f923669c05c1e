"""The networks of a run, put on their device in the precision they are trained in; apart from any data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ControlNetModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.training_utils import EMAModel
from torch import nn

from pipeline.contract.errors import CnlabError
from trainer.config import Precision, Training
from trainer.loop import Denoiser
from trainer.nets.control import build_control, decoder_parameters
from trainer.nets.fit import load_decoder
from trainer.nets.models import Prior
from trainer.parallel import Ranks
from trainer.state.trained import Trained

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Models:
    """The frozen prior, the net that is trained, and both as the module that the loop calls."""

    prior: Prior
    control: ControlNetModel
    trained: Trained
    denoiser: nn.Module
    half: torch.dtype | None  # precision of products, None: fp32


def set_speed(precision: Precision, device: torch.device) -> None:
    """Of the whole process: how matrix products and convolutions are computed. fp32 is fp32 in both."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")


def build_models(training: Training, prior: Prior, device: torch.device, ranks: Ranks | None = None) -> Models:
    """Build the net on ``prior`` and put both on ``device``; the autoencoder stays where it is.

    A frozen UNet computes natively in half precision: half the memory and no casts. On a CPU that takes contiguous
    tensors and attention as plain products (`prior_recipe`: torch's fused attention takes a third of a bf16 step).
    """
    half = HALF.get(training.precision)
    on_cpu = device.type == "cpu"
    memory = torch.contiguous_format
    if "channels_last" in training.engine and not (on_cpu and half):
        memory = torch.channels_last
    hint = training.hint
    control = build_control(
        prior.unet,
        hint.channels,
        training.seed,
        hint.init,
        training.variant,
        training.init,
        vae=prior.vae,
        rank=training.lora_rank,
    )
    control.to(device)
    prior.unet.to(device)
    if "text_cache" not in training.engine:
        for encoder in prior.text_encoders:
            encoder.to(device, half if half is not None and not on_cpu else torch.float32)
    if training.unlock_decoder:
        load_decoder(prior.unet, training.init)
        for parameter in decoder_parameters(prior.unet):
            parameter.requires_grad_(True)
    elif half is not None and not (on_cpu and half == torch.float16):  # which CPUs compute one number at a time
        nn.Module.to(prior.unet, half)  # diffusers' own warns of modules that are none
    if on_cpu and half is not None:
        prior.unet.set_attn_processor(AttnProcessor())
        control.set_attn_processor(AttnProcessor())
    control.to(memory_format=memory)
    prior.unet.to(memory_format=memory)
    if "checkpointing" in training.engine:
        control.enable_gradient_checkpointing()
        prior.unet.enable_gradient_checkpointing()  # the residuals' gradients pass through its decoder
    denoiser = Denoiser(prior.unet, control, half)
    if "compile" in training.engine:
        denoiser.compile()
    trained = _trained(training, prior, control, device, memory)
    return Models(prior, control, trained, (ranks or Ranks()).wrap(denoiser), half)


def _trained(
    training: Training, prior: Prior, control: ControlNetModel, device: torch.device, memory: torch.memory_format
) -> Trained:
    settings = training.optimizer
    unlocked = decoder_parameters(prior.unet) if training.unlock_decoder else []
    params = [p for p in control.parameters() if p.requires_grad] + unlocked
    optimizer = build_optimizer(params, training, device)
    # loss scaling for fp16 alone; in any precision the scaler skips steps whose gradients are not finite
    scaler = torch.amp.GradScaler(device.type, init_scale=2.0**16 if training.precision == "fp16" else 1.0)
    ema = EMAModel(params, decay=settings.ema, foreach=True) if settings.ema else None
    return Trained(control, prior.unet if unlocked else None, params, optimizer, scaler, ema, memory)


def build_optimizer(params: list[nn.Parameter], training: Training, device: torch.device) -> torch.optim.Optimizer:
    """AdamW, with 8-bit states where that is asked for; raises CnlabError where bitsandbytes cannot be had."""
    options: dict[str, Any] = {"lr": training.lr, "weight_decay": training.optimizer.weight_decay}
    if not training.optimizer.eight_bit:
        return torch.optim.AdamW(params, fused=True, **options)
    if device.type != "cuda":
        raise CnlabError("--optimizer.eight-bit needs a CUDA device; leave it out on a CPU")
    try:
        import bitsandbytes  # type: ignore[import-not-found]
    except ImportError as error:
        raise CnlabError("--optimizer.eight-bit needs bitsandbytes: pip install bitsandbytes") from error
    optimizer: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(params, **options)
    return optimizer
