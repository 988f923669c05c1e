"""The decoder once more: on latents that the denoiser gives back, and against a critic of patches.

A denoiser leaves small errors in its latents, and a decoder that has seen only those of its own encoder makes wavy
edges and pebbles of them (docs/log.md). Decoders trained on disturbed latents: Zheng et al., Diffusion Transformers
with Representation Autoencoders, 2025, section 4. Critic: Isola et al., CVPR 2017, section 3.2.2, its weight by Esser
et al., CVPR 2021, eq. 7. The encoder stays, and with it every latent.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.data.encode import to_model_range
from trainer.parallel import Ranks
from trainer.prior.cpu import autocast, use_plain_attention
from trainer.prior.fit import ONE, FitConfig, Task, batch_indices, part_of_batch
from trainer.prior.models import build_scheduler
from trainer.prior.vae import CROP, CROP_SHARE, difference

CONFIG = FitConfig(
    steps=4_000,
    lr=4e-4,
    batch=8,
    warmup=50,
    ema_decay=0.99,
    weight_decay=0.0,
    save_every=500,
    schedule="trapezoid",
)
COUNT = 6_000  # renders whose latents are given back
LAST_STEPS, STEPS = 6, 20  # noised by up to this many of a sampler's last steps
OWN_SHARE = 0.35  # of the latents a step sees are the encoder's own
CRITIC_WEIGHT, CRITIC_WARMUP = 0.5, 300  # of its gradient, against the differences'; steps until it has it
PATCH = CROP // 8  # latents a side of a crop


@torch.inference_mode()
def give_back(unet: UNet2DConditionModel, latents: Tensor, states: Tensor, generator: torch.Generator) -> Tensor:
    """Latents (B, C, h, w), scaled, noised to one of the last levels of a sampler and denoised from there by DDIM.

    SDEdit (Meng et al., ICLR 2022) without guidance; ``states`` (B, TOKENS, D) are their captions' text states.
    """
    scheduler = build_scheduler()
    scheduler.set_timesteps(STEPS)
    levels = scheduler.timesteps[-int(torch.randint(1, LAST_STEPS + 1, (1,), generator=generator)) :]
    noise = torch.randn(latents.shape, generator=generator)
    x: Tensor = scheduler.add_noise(latents, noise, levels[:1].expand(len(latents)))
    for t in levels:
        with autocast():
            prediction = unet(x, t, states).sample
        x = scheduler.step(prediction.float(), t, x).prev_sample
    return x


def build_critic() -> nn.Sequential:
    """Tells renders from decoded pictures, patch by patch: (B, 3, S, S) -> logits (B, 1, S/8 - 1, S/8 - 1)."""
    widths = (3, 32, 64, 96, 128)
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(itertools.pairwise(widths)):
        layers.append(nn.Conv2d(before, after, 4, 2 if i < 3 else 1, 1))
        layers += [nn.GroupNorm(8, after)] if i else []
        layers.append(nn.LeakyReLU(0.2))
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, 1, 1))


def critic_losses(
    critic: nn.Module, y: Tensor, x: Tensor, difference_of: Tensor, weight: float
) -> tuple[Tensor, Tensor]:
    """What the critic's judgement adds to the decoder's loss, and the critic's own hinge loss.

    y, x           decoded pictures (with their graph) and renders, (B, 3, S, S)
    difference_of  scalar loss of ``y`` against ``x``, to whose gradient the critic's is scaled
    weight         norm of the critic's gradient by ``y`` over that of ``difference_of``

    The first is zero in value; its gradient by ``y`` is what counts. One backward pass of the sum trains both.
    """
    seen = y.detach().requires_grad_()
    with autocast():
        fake, real = critic(seen), critic(x)
    fake, real = fake.float(), real.float()
    of_difference = torch.autograd.grad(difference_of, y, retain_graph=True)[0]
    of_critic = torch.autograd.grad(-fake.mean(), seen, retain_graph=True)[0]
    scale = weight * of_difference.norm() / of_critic.norm().clamp_min(1e-12)
    push = (y * (scale * of_critic)).sum()
    return push - push.detach(), F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def decoder_task(
    vae: AutoencoderKL,
    images: NDArray[np.uint8],
    own: NDArray[np.float16],
    returned: NDArray[np.float16],
    ranks: Ranks = ONE,
) -> Task:
    """What trains the decoder of ``vae`` in place; the encoder is frozen.

    images    (N, S, S, 3) uint8 renders
    own       (N, C, S/8, S/8) float16 means of their posteriors, unscaled
    returned  (N, C, S/8, S/8) float16 the same after `give_back`
    """
    torch.manual_seed(14)
    use_plain_attention(vae)
    critic = build_critic()
    for frozen in (vae.encoder, vae.quant_conv):
        frozen.requires_grad_(False)
    part = part_of_batch(ranks, CONFIG.batch)

    def loss_of(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        pick = np.sort(batch_indices(CONFIG, step, len(returned)))
        clean = (torch.rand(len(pick), generator=generator) < OWN_SHARE).numpy()[:, None, None, None]
        latents = torch.from_numpy(np.where(clean, own[pick], returned[pick])).float()[part]
        x = to_model_range(images[pick[part]])
        if step < CROP_SHARE * CONFIG.steps:
            top, left = (int(v) for v in torch.randint(0, latents.shape[-1] - PATCH + 1, (2,), generator=generator))
            latents = latents[..., top : top + PATCH, left : left + PATCH]
            x = x[..., 8 * top : 8 * top + CROP, 8 * left : 8 * left + CROP]
        with autocast():
            decoded = vae.decode(latents).sample
        y = decoded.float()
        loss, figures = difference(y, x)
        weight = CRITIC_WEIGHT * min(1.0, step / CRITIC_WARMUP)
        push, hinge = critic_losses(critic, y, x, loss, weight)
        return loss + push + hinge, {**figures, "critic": hinge.item()}

    return Task("decoder", nn.ModuleDict({"autoencoder": vae, "critic": critic}), loss_of, CONFIG)
