"""The paper's argument about zero convolutions, on a small random Stable Diffusion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionControlNetPipeline, StableDiffusionPipeline

from pipeline.contract.dataset import Triplets
from pipeline.fidelity import other_samples
from trainer.data.items import load_items
from trainer.loop import predict
from trainer.nets.control import build_control
from trainer.nets.models import Prior, load_prior
from trainer.watch.validate import held_out_loss

HINT = (8, 8, 8, 8)


@pytest.fixture(scope="module")
def prior(model_folder: Path) -> Prior:
    return load_prior(str(model_folder), torch.device("cpu"))


def test_untrained_controlnet_leaves_the_prior_bit_identical(model_folder: Path, prior: Prior, tmp_path: Path) -> None:
    build_control(prior.unet, HINT, 0).save_pretrained(tmp_path / "control")
    shared = {"num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "np"}
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    alone = StableDiffusionPipeline.from_pretrained(model_folder, safety_checker=None)
    expected = alone(["a red cube", "a cone"], latents=noise, **shared).images
    from diffusers import ControlNetModel

    control = ControlNetModel.from_pretrained(tmp_path / "control")
    pipe = StableDiffusionControlNetPipeline.from_pretrained(model_folder, controlnet=control, safety_checker=None)
    hint = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    found = pipe(["a red cube", "a cone"], image=hint, latents=noise, **shared).images
    assert np.array_equal(found, expected)


def test_first_gradients_reach_zero_convolutions_only_and_the_copy_after_one_step(prior: Prior) -> None:
    control = build_control(prior.unet, HINT, 0)
    optimizer = torch.optim.SGD(control.parameters(), lr=0.1)
    g = torch.Generator().manual_seed(0)
    batch = {
        "noisy": torch.randn(2, 4, 8, 8, generator=g), "t": torch.tensor([100, 700]),
        "states": torch.randn(2, 32, 16, generator=g), "hint": torch.rand(2, 3, 64, 64, generator=g),
    }  # fmt: skip
    target = torch.randn(2, 4, 8, 8, generator=g)

    def backward() -> None:
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(predict(prior.unet, control, batch), target).backward()

    backward()
    zero = [
        p for n, p in control.named_parameters() if n.startswith(("controlnet_down_blocks", "controlnet_mid_block"))
    ]
    copy = [p for n, p in control.named_parameters() if n.startswith(("down_blocks", "mid_block", "conv_in"))]
    assert all(p.grad is not None and p.grad.any() for p in zero)
    assert not any(p.grad is not None and p.grad.any() for p in copy)
    optimizer.step()
    backward()
    assert sum(bool(p.grad is not None and p.grad.any()) for p in copy) > 0.9 * len(copy)
    assert all(p.grad is None for p in prior.unet.parameters())


def test_the_copy_starts_as_the_encoder(prior: Prior) -> None:
    control = build_control(prior.unet, HINT, 3)
    theirs = prior.unet.state_dict()
    for name, value in control.state_dict().items():
        if name.startswith(("down_blocks", "mid_block", "conv_in", "time_embedding")):
            assert torch.equal(value, theirs[name]), name
    again = build_control(prior.unet, HINT, 3).state_dict()
    assert all(torch.equal(v, again[k]) for k, v in control.state_dict().items())


def test_sd15_topology_has_thirteen_outputs_and_the_published_size() -> None:
    """On the meta device: ControlNet for SD 1.5 has 361,279,120 parameters."""
    from diffusers import ControlNetModel

    with torch.device("meta"):
        control = ControlNetModel(cross_attention_dim=768, attention_head_dim=8)
    assert sum(p.numel() for p in control.parameters()) == 361_279_120
    assert len(control.controlnet_down_blocks) + 1 == 13


def test_held_out_loss_is_fixed_and_arms_agree_before_training(prior: Prior, dataset: Path) -> None:
    items = load_items(Triplets(dataset), "eval", None, prior, "m")
    control = build_control(prior.unet, HINT, 0)
    other = other_samples([str(i) for i in range(len(items))])
    first, again = (held_out_loss(control, prior, items, other, at_once=3) for _ in range(2))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert torch.equal(first["true"], first["none"])
    assert torch.equal(first["shuffled"], first["none"])
    assert control.training
    for p in control.parameters():
        torch.nn.init.normal_(p, std=0.3) if not p.any() else None
    trained = held_out_loss(control, prior, items, other, at_once=3)
    assert not torch.equal(trained["true"], trained["shuffled"])
    assert torch.equal(trained["none"], first["none"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_predicts_what_the_cpu_predicts(model_folder: Path, prior: Prior) -> None:
    theirs = load_prior(str(model_folder), torch.device("cuda"))
    noisy, states = torch.randn(2, 4, 8, 8), torch.randn(2, 32, 16)
    batch = {"noisy": noisy, "t": torch.tensor([5, 900]), "states": states, "hint": torch.rand(2, 3, 64, 64)}
    control = build_control(prior.unet, HINT, 0)
    here = predict(prior.unet, control, batch)
    there = predict(theirs.unet, build_control(theirs.unet, HINT, 0), {k: v.cuda() for k, v in batch.items()})
    assert torch.allclose(here, there.cpu(), atol=1e-3)


def test_gaussian_hint_encoder_keeps_the_signal_and_the_identity(prior: Prior) -> None:
    edges = (torch.rand(4, 1, 64, 64, generator=torch.Generator().manual_seed(0)) < 0.1).float().expand(-1, 3, -1, -1)
    spread = {}
    for init in ("released", "gaussian"):
        encoder = build_control(prior.unet, (16, 32, 32, 32), 0, init).controlnet_cond_embedding
        with torch.no_grad():
            features = torch.nn.functional.silu(encoder.conv_in(edges))
            for layer in encoder.blocks:
                features = torch.nn.functional.silu(layer(features))
            assert not encoder.conv_out(features).any()  # still zero at the start
        spread[init] = features.std((0, 2, 3)).mean().item()
    assert spread["gaussian"] > 20 * spread["released"]
    assert 0.02 < spread["gaussian"] < 1
