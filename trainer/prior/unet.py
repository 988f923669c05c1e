"""The denoiser: latent diffusion (Rombach et al., 2022) on cached latents and cached text states."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor
from tqdm import trange
from transformers import CLIPTextModel

from trainer.nets.diffusion import diffusion_target
from trainer.prior.fit import FitConfig, batch_indices, fit
from trainer.prior.models import build_scheduler, build_unet

CONFIG = FitConfig(steps=6200, lr=1e-3, batch=32, warmup=200, ema_decay=0.998, weight_decay=0.0)
EMPTY_PROMPT_RATE = 0.1  # for classifier-free guidance (Ho and Salimans, 2022)


@torch.inference_mode()
def encode_texts(encoder: CLIPTextModel, ids: Tensor, batch: int = 256) -> NDArray[np.float16]:
    """Last hidden states, what SD's cross-attention reads: (N, TOKENS) int64 -> (N, TOKENS, D) float16."""
    out = [
        encoder(input_ids=ids[start : start + batch]).last_hidden_state.half().numpy()
        for start in trange(0, len(ids), batch, desc="text states", unit="batch", mininterval=5)
    ]
    return np.concatenate(out)


def train_unet(
    moments: NDArray[np.float16], states: NDArray[np.float16], empty: NDArray[np.float16], scale: float, work: Path
) -> UNet2DConditionModel:
    """Train (or finish training) the UNet.

    moments  (N, 8, 16, 16) float16, posterior mean and standard deviation, unscaled
    states   (N, TOKENS, D) float16 text states, ``empty`` (TOKENS, D) those of ""
    scale    the autoencoder's scaling factor
    """
    torch.manual_seed(13)
    model = build_unet().to(memory_format=torch.channels_last)
    scheduler = build_scheduler()
    nothing = torch.from_numpy(empty).float()

    def loss_of(step: int, g: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        pick = np.sort(batch_indices(CONFIG, step, len(moments)))
        mean, std = torch.from_numpy(moments[pick]).float().chunk(2, 1)
        latents = (mean + std * torch.randn(mean.shape, generator=g)) * scale
        text = torch.from_numpy(states[pick]).float()
        text[torch.rand(len(pick), generator=g) < EMPTY_PROMPT_RATE] = nothing
        noise = torch.randn(latents.shape, generator=g)
        # one timestep from each of B equal strata: the same expectation as i.i.d. draws, less variance
        t = ((torch.arange(len(pick)) + torch.rand(len(pick), generator=g)) / len(pick) * 1000).long()
        t = t[torch.randperm(len(pick), generator=g)]
        noisy = scheduler.add_noise(latents, noise, t).contiguous(memory_format=torch.channels_last)
        prediction = model(noisy, t, text).sample
        return F.mse_loss(prediction, diffusion_target(scheduler, latents, noise, t)), {}

    fit("unet", work, model, loss_of, CONFIG)
    return model
