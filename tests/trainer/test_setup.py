"""Networks in the precision they are trained in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor

from pipeline.contract.dataset import Triplets
from pipeline.contract.errors import CnlabError
from pipeline.contract.files import read_json, write_json
from trainer.config import PRESETS, HintOptions, TrainConfig, Training, Watch
from trainer.nets.control import build_control
from trainer.nets.models import load_pipeline, load_prior
from trainer.setup import build_models, build_optimizer, set_speed
from trainer.watch.samples import Sampler, decode
from trainer.watch.watcher import annotator_weights

CPU = torch.device("cpu")
WATCH = Watch(loss_samples=2, fidelity_samples=2, sampling_steps=1, guidance=3.0, grid=1, log_every=1)


@pytest.fixture
def training(dataset: Path) -> Training:
    return TrainConfig(dataset=dataset, model="m", preset="sd", hint=HintOptions((8, 8, 8, 8))).resolved()


def test_a_frozen_unet_is_in_half_precision_and_what_is_trained_is_not(training: Training, model_folder: Path) -> None:
    models = build_models(replace(training, precision="bf16"), load_prior(str(model_folder), CPU), CPU)
    assert models.prior.unet.dtype == torch.bfloat16
    assert {p.dtype for p in models.trained.params} == {torch.float32}
    assert {type(p) for p in models.prior.unet.attn_processors.values()} == {AttnProcessor}
    unlocked = replace(training, precision="bf16", unlock_decoder=True)
    assert build_models(unlocked, load_prior(str(model_folder), CPU), CPU).prior.unet.dtype == torch.float32
    full = build_models(training, load_prior(str(model_folder), CPU), CPU)
    assert full.prior.unet.dtype == torch.float32
    assert full.half is None


@pytest.mark.parametrize(("native", "precision"), [(True, "bf16"), (False, "fp32")])
def test_auto_takes_bf16_where_the_cpu_multiplies_it(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, native: bool, precision: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    assert TrainConfig(dataset=dataset, precision="auto", device="cpu").resolved().precision == precision
    assert TrainConfig(dataset=dataset).resolved().precision == "fp32"  # the published default


def test_fp32_is_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    set_speed("fp32", torch.device("cuda"))
    assert not torch.backends.cudnn.allow_tf32
    set_speed("tf32", torch.device("cuda"))
    assert torch.backends.cudnn.allow_tf32
    set_speed("fp32", CPU)


def test_eight_bit_states_need_a_gpu(training: Training) -> None:
    training = replace(training, optimizer=replace(PRESETS["sd"].optimizer, eight_bit=True))
    with pytest.raises(CnlabError, match="needs a CUDA device"):
        build_optimizer([torch.nn.Parameter(torch.ones(1))], training, CPU)


def test_decoding_stays_in_fp32_whatever_the_networks_compute_in(xl_folder: Path, dataset: Path) -> None:
    """SDXL's decoder has activations of 1e5, which fp16 cannot hold."""
    prior = load_prior(str(xl_folder), CPU)
    config = TrainConfig(dataset=dataset, model="m", preset="sd", precision="bf16", hint=HintOptions((8, 8, 8, 8)))
    models = build_models(config.resolved(), prior, CPU)
    seen = []
    prior.vae.decoder.conv_in.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    pictures = Sampler(Triplets(dataset), prior, WATCH, models.half).paint(models.control)
    assert set(seen) == {torch.float32}
    assert pictures.shape[0] == 2


def test_pictures_that_are_no_numbers_are_refused(training: Training, model_folder: Path, dataset: Path) -> None:
    prior = load_prior(str(model_folder), CPU)
    models = build_models(training, prior, CPU)
    with torch.no_grad():
        next(iter(prior.vae.decoder.parameters())).fill_(float("nan"))
    with pytest.raises(CnlabError, match="sample pictures hold values that are no numbers"):
        Sampler(Triplets(dataset), prior, WATCH).paint(models.control)


def test_decoding_is_the_pipelines(model_folder: Path) -> None:
    prior = load_prior(str(model_folder), CPU)
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = prior.vae.decode(latents / prior.vae.config.scaling_factor).sample / 2 + 0.5
        ours = decode(prior, latents, CPU)
    assert np.allclose(ours, theirs.clamp(0, 1).permute(0, 2, 3, 1).numpy(), atol=1e-5)


def test_fidelity_uses_the_weights_that_the_maps_were_made_with(dataset: Path, tmp_path: Path) -> None:
    header = read_json(dataset / "dataset.json")
    weights = {"canny": "hub:somebody/edges"}
    write_json(tmp_path / "dataset.json", {**header, "config": {"weights": weights}})
    assert annotator_weights(Triplets(tmp_path)) == "somebody/edges"
    assert annotator_weights(Triplets(dataset)) == ""
    own = tmp_path / "edges.pth"
    own.write_bytes(b"weights")
    from pipeline.contract.models import weights_identity

    write_json(tmp_path / "dataset.json", {**header, "config": {"weights": {"canny": weights_identity(str(own))}}})
    write_json(tmp_path / ".build.json", {"options": {"weights": {"canny": str(own)}}})
    assert annotator_weights(Triplets(tmp_path)) == str(own)
    own.write_bytes(b"other weights")
    assert annotator_weights(Triplets(tmp_path)) == ""


def test_sdxl_pictures_get_no_watermark(xl_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers paints one into every picture where invisible-watermark is installed, which our measures would read."""
    from diffusers.pipelines.controlnet import pipeline_controlnet_sd_xl as with_net
    from diffusers.pipelines.stable_diffusion_xl import pipeline_stable_diffusion_xl as plain

    for module in (with_net, plain):
        monkeypatch.setattr(module, "is_invisible_watermark_available", lambda: True)
        monkeypatch.setattr(module, "StableDiffusionXLWatermarker", object, raising=False)
    prior = load_prior(str(xl_folder), CPU)
    control = build_control(prior.unet, (8, 8, 8, 8), 0)
    control.save_pretrained(tmp_path)
    pipes = [prior.pipeline(control)]
    pipes += [load_pipeline(str(xl_folder), checkpoint, torch.float32) for checkpoint in (None, tmp_path)]
    assert [pipe.watermark for pipe in pipes] == [None, None, None]
