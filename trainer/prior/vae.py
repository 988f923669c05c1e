"""The autoencoder: pixel and gradient differences and a light KL, then a scaling factor that gives unit latents.

Most steps see 64-pixel crops: at a fixed number of pixels, four times the updates did far more for sharpness and
colour than whole images (docs/log.md); the last part sees whole images, for which group norms and attention differ.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

from trainer.data.encode import to_model_range
from trainer.parallel import Ranks
from trainer.prior.cpu import autocast, use_plain_attention
from trainer.prior.fit import ONE, FitConfig, Task, batch_indices, part_of_batch
from trainer.prior.models import build_vae

CONFIG = FitConfig(
    steps=24_000,
    lr=1.5e-3,
    batch=8,
    warmup=100,
    ema_decay=0.998,
    weight_decay=0.0,
    save_every=500,
    schedule="trapezoid",
)
CROP, CROP_SHARE = 64, 0.9  # pixels; share of the steps that see crops
KL_WEIGHT = 1e-4  # per latent element against a per-pixel L1


def gradient_difference(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of horizontal and vertical finite differences (Mathieu et al., 2016, eq. 6, alpha 1)."""
    e = a - b
    return (e[..., :, 1:] - e[..., :, :-1]).abs().mean() + (e[..., 1:, :] - e[..., :-1, :]).abs().mean()


def difference(y: Tensor, x: Tensor) -> tuple[Tensor, dict[str, float]]:
    """How far pictures (B, 3, S, S) in [-1, 1] are from ``x``: a loss of values, squares and edges, and its parts."""
    l1, l2, edges = (y - x).abs().mean(), (y - x).square().mean(), gradient_difference(y, x)
    figures = {"l1": l1.item(), "psnr": 10 * np.log10(4 / l2.item()), "edges": edges.item()}
    return l1 + 2 * l2 + edges, figures


def vae_task(images: NDArray[np.uint8], ranks: Ranks = ONE) -> tuple[AutoencoderKL, Task]:
    """The autoencoder, untrained, and what trains it on ``images`` (N, S, S, 3) uint8."""
    torch.manual_seed(12)
    model = build_vae()
    use_plain_attention(model)
    part = part_of_batch(ranks, CONFIG.batch)

    def loss_of(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        x = to_model_range(images[np.sort(batch_indices(CONFIG, step, len(images)))[part]])
        if step < CROP_SHARE * CONFIG.steps:
            top, left = (int(v) for v in torch.randint(0, x.shape[-1] - CROP + 1, (2,), generator=generator))
            x = x[..., top : top + CROP, left : left + CROP]
        with autocast():  # 1.6 times as fast; the losses below stay in float32
            posterior = model.encode(x).latent_dist
            noise = torch.randn((CONFIG.batch, *posterior.mean.shape[1:]), generator=generator)[part]
            y = model.decode(posterior.mean + posterior.std * noise).sample
        loss, figures = difference(y.float(), x)
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return loss + KL_WEIGHT * kl, {**figures, "kl": kl.item()}

    return model, Task("vae", model, loss_of, CONFIG)


def set_scaling_factor(vae: AutoencoderKL, images: NDArray[np.uint8]) -> None:
    """Set ``config.scaling_factor`` to 1 / the standard deviation of the latents of ``images``."""
    means = encode_moments(vae, images)[:, : vae.config.latent_channels]
    vae.register_to_config(scaling_factor=float(1 / means.std(dtype=np.float64)))


@torch.inference_mode()
def encode_moments(vae: AutoencoderKL, images: NDArray[np.uint8], batch: int = 64) -> NDArray[np.float16]:
    """Posterior mean and standard deviation of every image, (N, 2C, S/8, S/8) float16, unscaled."""
    out = []
    for start in range(0, len(images), batch):
        with autocast():
            posterior = vae.encode(to_model_range(images[start : start + batch])).latent_dist
        out.append(torch.cat([posterior.mean, posterior.std], 1).half().numpy())
    return np.concatenate(out)
