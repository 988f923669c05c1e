"""The decoder's second training: what is given back, how the critic pushes, and what stays as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from trainer.prior import decoder
from trainer.prior.fit import fit
from trainer.prior.models import build_scheduler, build_vae


def exact_denoiser(clean: Tensor) -> UNet2DConditionModel:
    """Predicts the velocity that leads to ``clean``, as a denoiser that makes no error would."""
    alphas = build_scheduler().alphas_cumprod

    def predict(x: Tensor, t: Tensor, _states: Tensor) -> SimpleNamespace:
        signal, noise = alphas[t].sqrt(), (1 - alphas[t]).sqrt()
        return SimpleNamespace(sample=signal * (x - signal * clean) / noise - noise * clean)

    return cast(UNet2DConditionModel, predict)


def test_a_denoiser_without_error_gives_latents_back_as_they_were() -> None:
    latents = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    for seed in range(4):  # several levels of noise
        back = decoder.give_back(
            exact_denoiser(latents), latents, torch.zeros(2, 1, 1), torch.Generator().manual_seed(seed)
        )
        assert (back - latents).abs().max() < 0.15  # diffusers' last level keeps a noise of .03
    other = decoder.give_back(exact_denoiser(-latents), latents, torch.zeros(2, 1, 1), torch.Generator().manual_seed(0))
    assert (other + latents).abs().mean() < 0.2 * latents.abs().mean()  # the denoiser decides, not what was noised


def test_the_critic_pushes_with_its_share_of_the_gradient_and_learns_only_from_its_own_loss() -> None:
    torch.manual_seed(0)
    critic = decoder.build_critic()
    y, x = torch.randn(2, 3, 64, 64, requires_grad=True), torch.randn(2, 3, 64, 64)
    difference = (y - x).square().mean()
    of_difference = torch.autograd.grad(difference, y, retain_graph=True)[0]
    push, hinge = decoder.critic_losses(critic, y, x, difference, 0.5)
    assert push.item() == 0
    of_push = torch.autograd.grad(push, y, retain_graph=True)[0]
    assert of_push.norm() == pytest.approx(0.5 * of_difference.norm().item(), rel=1e-4)
    assert hinge.item() == pytest.approx(2, abs=0.5)  # an untrained critic cannot tell
    seen = y.detach()
    with torch.no_grad():  # a step along the push makes the critic take the pictures for more real
        assert critic(seen - 100 * of_push).mean() > critic(seen).mean()
    parameters = list(critic.parameters())
    of_both = torch.autograd.grad(push + hinge, parameters, retain_graph=True)
    of_hinge = torch.autograd.grad(hinge, parameters)
    assert all(torch.equal(a, b) for a, b in zip(of_both, of_hinge, strict=True))


def test_only_the_decoder_learns_and_it_learns_to_read_disturbed_latents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "CONFIG", replace(decoder.CONFIG, steps=15, batch=4, warmup=2, save_every=15))
    rng = np.random.default_rng(0)
    images = np.repeat(np.repeat(rng.integers(0, 256, (8, 4, 4, 3), dtype=np.uint8), 16, 1), 16, 2)
    own = rng.normal(size=(8, 8, 8, 8)).astype(np.float16)
    returned = (own + 0.2 * rng.normal(size=own.shape)).astype(np.float16)
    torch.manual_seed(1)
    vae = build_vae()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    task = decoder.decoder_task(vae, images, own, returned)
    target = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1

    def error() -> float:
        with torch.no_grad():
            return (vae.decode(torch.from_numpy(returned).float()).sample - target).abs().mean().item()

    first = error()
    fit(task, tmp_path)
    assert error() < 0.95 * first
    changed = {name for name, value in vae.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith(("decoder.", "post_quant_conv."))}
