"""The autoencoder: pixel and gradient differences and a light KL, then a scaling factor that gives unit latents.

Most steps see 64-pixel crops: at a fixed number of pixels, four times the updates did far more for sharpness and
colour than whole images (docs/log.md); the last part sees whole images, for which group norms and attention differ.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor
from tqdm import trange

from trainer.data.encode import to_model_range
from trainer.prior.fit import FitConfig, batch_indices, fit
from trainer.prior.models import build_vae

CONFIG = FitConfig(steps=7000, lr=1.5e-3, batch=8, warmup=100, ema_decay=0.998, weight_decay=0.0)
CROP, CROP_SHARE = 64, 0.9  # pixels; share of the steps that see crops
KL_WEIGHT = 1e-4  # per latent element against a per-pixel L1


def gradient_difference(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of horizontal and vertical finite differences (Mathieu et al., 2016, eq. 6, alpha 1)."""
    e = a - b
    return (e[..., :, 1:] - e[..., :, :-1]).abs().mean() + (e[..., 1:, :] - e[..., :-1, :]).abs().mean()


def train_vae(images: NDArray[np.uint8], work: Path) -> AutoencoderKL:
    """Train (or finish training) the autoencoder; sets ``config.scaling_factor`` to 1 / latent standard deviation."""
    torch.manual_seed(12)
    model = build_vae()

    def loss_of(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        x = to_model_range(images[np.sort(batch_indices(CONFIG, step, len(images)))])
        if step < CROP_SHARE * CONFIG.steps:
            top, left = (int(v) for v in torch.randint(0, x.shape[-1] - CROP + 1, (2,), generator=generator))
            x = x[..., top : top + CROP, left : left + CROP]
        with torch.autocast("cpu", torch.bfloat16):  # 1.6 times as fast here; the losses below stay in float32
            posterior = model.encode(x).latent_dist
            y = model.decode(posterior.sample(generator)).sample
        y = y.float()
        l1, l2, edges = (y - x).abs().mean(), (y - x).square().mean(), gradient_difference(y, x)
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        figures = {"l1": l1.item(), "psnr": 10 * np.log10(4 / l2.item()), "edges": edges.item(), "kl": kl.item()}
        return l1 + 2 * l2 + edges + KL_WEIGHT * kl, figures

    fit("vae", work, model, loss_of, CONFIG)
    latents = encode_moments(model, images[:2048])[:, :4]
    model.register_to_config(scaling_factor=float(1 / latents.std()))
    return model


@torch.inference_mode()
def encode_moments(vae: AutoencoderKL, images: NDArray[np.uint8], batch: int = 64) -> NDArray[np.float16]:
    """Posterior mean and standard deviation of every image, (N, 8, S/8, S/8) float16, unscaled."""
    out = []
    for start in trange(0, len(images), batch, desc="encoding", unit="batch", mininterval=5):
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(to_model_range(images[start : start + batch])).latent_dist
        out.append(torch.cat([posterior.mean, posterior.std], 1).half().numpy())
    return np.concatenate(out)
