"""What the networks are trained to predict, and how much each timestep counts."""

from __future__ import annotations

from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.training_utils import compute_snr
from torch import Tensor


def diffusion_target(scheduler: DDPMScheduler | DDIMScheduler, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """What the network is to predict: the noise (paper, eq. 5) or the velocity (Salimans and Ho, 2022)."""
    if scheduler.config.prediction_type == "epsilon":
        return noise
    if scheduler.config.prediction_type == "v_prediction":
        velocity: Tensor = scheduler.get_velocity(latents, noise, t)
        return velocity
    raise ValueError(f"prediction type {scheduler.config.prediction_type!r} is neither epsilon nor v_prediction")


def sample_latents(moments: Tensor, noise: Tensor, scale: float) -> Tensor:
    """A draw from the autoencoder's posterior: (B, 2C, h, w) mean and deviation -> (B, C, h, w), scaled."""
    mean, std = moments.chunk(2, 1)
    return (mean + std * noise) * scale


def min_snr_weights(scheduler: DDPMScheduler, t: Tensor, gamma: float) -> Tensor:
    """Weights (B,) of the loss at timesteps ``t``: min(SNR, gamma) / SNR, or / (SNR + 1) for velocities.

    Hang et al., Efficient Diffusion Training via Min-SNR Weighting Strategy, ICCV 2023, section 3.4.
    """
    snr: Tensor = compute_snr(scheduler, t)
    return snr.clamp(max=gamma) / (snr + 1 if scheduler.config.prediction_type == "v_prediction" else snr)
