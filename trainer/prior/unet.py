"""The denoiser: latent diffusion (Rombach et al., 2022) on cached latents and cached text states.

In two cycles, each with a rate that rises and falls and with averaged weights of its own: a finished denoiser is
trained on without the optimizer's state (warm restarts: Loshchilov and Hutter, ICLR 2017).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPTextModel

from trainer.nets.diffusion import diffusion_target
from trainer.parallel import Ranks
from trainer.prior.cpu import autocast, use_plain_attention
from trainer.prior.fit import ONE, FitConfig, Task, batch_indices, part_of_batch
from trainer.prior.models import build_scheduler, build_unet

CONFIG = FitConfig(  # 672 thousand samples
    steps=10_500,
    lr=1e-3,
    batch=64,
    warmup=300,
    ema_decay=0.9995,
    weight_decay=0.0,
    save_every=100,
    schedule="trapezoid",
    milestones=(1_562, 3_125, 6_250, 10_500),  # 100, 200 and 400 thousand samples, and the end
)
AGAIN = replace(  # 602 thousand more
    CONFIG, steps=9_400, lr=7e-4, warmup=200, clip=0.3, weight_decay=0.05, seed=2, milestones=()
)
LOW_LEVELS = ("down_blocks.2.", "down_blocks.3.", "mid_block.", "up_blocks.0.", "up_blocks.1.")
EMPTY_PROMPT_RATE = 0.1  # for classifier-free guidance (Ho and Salimans, 2022)


@torch.no_grad()
def entering_std(
    model: UNet2DConditionModel, moments: NDArray[np.float16], states: NDArray[np.float16], scale: float
) -> float:
    """Standard deviation of what the 8 x 8 level hands down, over the first renders; arguments as in `unet_task`."""
    means = torch.from_numpy(moments[:64, : moments.shape[1] // 2].astype(np.float32)) * scale
    noise = torch.randn(means.shape, generator=torch.Generator().manual_seed(16))
    t = torch.linspace(0, 999, len(means)).long()
    found: list[float] = []
    level = model.down_blocks[1]
    hook = level.register_forward_hook(lambda _, __, out: found.append(out[0].float().std().item()))
    model(build_scheduler().add_noise(means, noise, t), t, torch.from_numpy(states[:64].astype(np.float32)))
    hook.remove()
    return found[0]


@torch.no_grad()
def revive(model: UNet2DConditionModel, entering: float) -> None:
    """Begin the levels of 4 x 4 and 2 x 2 anew, and where the 8 x 8 ones of the encoder look.

    At a constant rate of 1e-3 their activations and attention logits grow into the hundreds, attention becomes one-hot,
    and the rest learns to do without them: taking them out changed the loss by .0006 of .244 (docs/log.md).
    What enters them, of the standard deviation ``entering``, comes to unit scale, or it would drown what they add.
    """
    torch.manual_seed(15)
    fresh = build_unet(model.config.in_channels)
    new, down = fresh.state_dict(), model.down_blocks[1]
    state = {k: new[k] for k in new if k.startswith(LOW_LEVELS)}
    state |= {k: new[k] for k in new if k.startswith("down_blocks.1.") and (".to_q." in k or ".to_k." in k)}
    model.load_state_dict(state, strict=False)
    for parameter in down.downsamplers.parameters():
        parameter /= entering


@torch.inference_mode()
def encode_texts(encoder: CLIPTextModel, ids: Tensor, batch: int = 256) -> NDArray[np.float16]:
    """Last hidden states, what SD's cross-attention reads: (N, TOKENS) int64 -> (N, TOKENS, D) float16."""
    out = [
        encoder(input_ids=ids[start : start + batch]).last_hidden_state.half().numpy()
        for start in range(0, len(ids), batch)
    ]
    return np.concatenate(out)


def unet_task(
    moments: NDArray[np.float16],
    states: NDArray[np.float16],
    empty: NDArray[np.float16],
    scale: float,
    ranks: Ranks = ONE,
    model: UNet2DConditionModel | None = None,
) -> tuple[UNet2DConditionModel, Task]:
    """The UNet and what trains it: a new one by CONFIG, or ``model`` once more by AGAIN.

    moments  (N, 2C, 16, 16) float16, posterior mean and standard deviation, unscaled
    states   (N, TOKENS, D) float16 text states, ``empty`` (TOKENS, D) those of ""
    scale    the autoencoder's scaling factor
    """
    config = CONFIG if model is None else AGAIN
    if model is None:
        torch.manual_seed(13)
        model = build_unet(moments.shape[1] // 2)
    else:
        revive(model, entering_std(model, moments, states, scale))
    use_plain_attention(model)
    scheduler = build_scheduler()
    nothing, part = torch.from_numpy(empty).float(), part_of_batch(ranks, config.batch)

    def loss_of(step: int, g: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        pick = np.sort(batch_indices(config, step, len(moments)))
        mean, std = torch.from_numpy(moments[pick]).float().chunk(2, 1)
        latents = (mean + std * torch.randn(mean.shape, generator=g)) * scale
        text = torch.from_numpy(states[pick]).float()
        text[torch.rand(len(pick), generator=g) < EMPTY_PROMPT_RATE] = nothing
        noise = torch.randn(latents.shape, generator=g)
        # one timestep from each of B equal strata: the same expectation as i.i.d. draws, less variance
        t = ((torch.arange(len(pick)) + torch.rand(len(pick), generator=g)) / len(pick) * 1000).long()
        t = t[torch.randperm(len(pick), generator=g)]
        latents, noise, t = latents[part], noise[part], t[part]
        with autocast():
            prediction = model(scheduler.add_noise(latents, noise, t), t, text[part]).sample
        return F.mse_loss(prediction.float(), diffusion_target(scheduler, latents, noise, t)), {}

    return model, Task("unet", model, loss_of, config)
