"""The ablation's nets, SDXL, transfer: each trains, is saved, loaded, and draws through the evaluation's painter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from evaluation.sampling import Painter, make_recipe
from pipeline.contract.errors import CnlabError
from pipeline.contract.files import read_json
from trainer.config import HintOptions, OptimizerOptions, TrainConfig, WatchOptions
from trainer.exchange.export import ExportConfig, export
from trainer.exchange.transfer import TransferConfig, transfer
from trainer.loop import predict
from trainer.nets.control import build_control, decoder_parameters, load_control
from trainer.nets.latent_hint import ControlNetVae
from trainer.nets.lite import ControlNetLite
from trainer.nets.lora import FACTORS, factors
from trainer.nets.models import Prior, load_prior
from trainer.run import run_training
from trainer.run_folder import checkpoint_path
from trainer.state.checkpoint import load_tensors

HINT = (8, 8, 8, 8)
VARIANTS = ("controlnet", "gaussian", "lite", "mlp", "only_mid", "vae", "lora")
QUICK = WatchOptions(loss_samples=4, fidelity_samples=2, sampling_steps=1)


@pytest.fixture(scope="module")
def prior(model_folder: Path) -> Prior:
    return load_prior(str(model_folder), torch.device("cpu"))


@pytest.fixture(scope="module")
def unet(prior: Prior) -> UNet2DConditionModel:
    return prior.unet


def inputs() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {
        "noisy": torch.randn(2, 4, 8, 8, generator=g), "t": torch.tensor([100, 700]),
        "states": torch.randn(2, 32, 16, generator=g), "hint": torch.rand(2, 3, 64, 64, generator=g),
    }  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_gaussian_outputs_disturb_the_untrained_prior(prior: Prior, variant: str) -> None:
    """Paper, 4.2: zero convolutions leave the prior as it is at step 0; Gaussian ones do not."""
    batch, unet = inputs(), prior.unet
    control = build_control(unet, HINT, 0, "gaussian", variant, vae=prior.vae)
    with torch.no_grad():
        same = torch.equal(predict(unet, control, batch), predict(unet, None, batch))
    assert same == (variant != "gaussian")


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_each_variant_trains(prior: Prior, variant: str) -> None:
    unet = prior.unet
    control = build_control(unet, HINT, 0, "gaussian", variant, vae=prior.vae)
    assert len(control.controlnet_down_blocks) == 8  # one layer a level here: 4 x 1 + 3 halvings + the first
    torch.nn.functional.mse_loss(predict(unet, control, inputs()), torch.zeros(2, 4, 8, 8)).backward()
    outputs = [p.grad is not None for p in control.controlnet_down_blocks.parameters()]
    assert all(outputs) == (variant != "only_mid")
    assert not any(outputs) or variant != "only_mid"
    assert control.controlnet_mid_block.weight.grad.any()
    assert isinstance(control, ControlNetLite) == (variant in ("lite", "mlp"))
    if isinstance(control, ControlNetLite):  # one convolution a block, of 3x3 or 1x1
        kernels = {
            m.kernel_size for m in (*control.blocks.modules(), *control.mid.modules()) if hasattr(m, "kernel_size")
        }
        assert ((3, 3) in kernels) == (variant == "lite")
        whole = build_control(unet, HINT, 0)
        assert sum(p.numel() for p in control.parameters()) < sum(p.numel() for p in whole.parameters()) / 2


def test_light_nets_keep_the_size_of_a_signal() -> None:
    net = ControlNetLite(block_out_channels=(32, 32, 64, 64), conditioning_embedding_out_channels=HINT)
    h = torch.randn(4, 32, 32, 32)
    with torch.no_grad():
        for block in net.blocks:
            h = block(h)
    assert 0.1 < h.square().mean().sqrt() < 10


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.slow
def test_every_variant_trains_saves_loads_and_draws(
    variant: str, model_folder: Path, dataset: Path, tmp_path: Path
) -> None:
    config = TrainConfig(
        dataset=dataset, model=str(model_folder), out=tmp_path, name="run", variant=variant, steps=2, batch=2,  # type: ignore[arg-type]
        lr=1e-2, validate_every=2, device="cpu", watch=QUICK, hint=HintOptions(HINT),
    )  # fmt: skip
    folder = run_training(config)
    checkpoint = folder / read_json(folder / "summary.json")["checkpoint"]
    loaded = load_control(checkpoint)
    if variant == "only_mid":
        assert not any(p.any() for p in loaded.controlnet_down_blocks.parameters())
    maps = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), np.uint8)
    recipe = make_recipe("tabletop", {"steps": 2, "block": 2})
    drawn = Painter(str(model_folder), [checkpoint], recipe, "cpu")(["a cube", "a cone"], [maps], [1, 2], 64)
    plain = Painter(str(model_folder), [], recipe, "cpu")(["a cube", "a cone"], [], [1, 2], 64)
    assert drawn.shape == (2, 64, 64, 3)
    assert not np.array_equal(drawn, plain)


@pytest.mark.slow
def test_an_unlocked_decoder_is_trained_saved_and_drawn_with(model_folder: Path, dataset: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        dataset=dataset, model=str(model_folder), out=tmp_path, name="run", unlock_decoder=True, steps=2, batch=2,
        lr=1e-2, validate_every=2, device="cpu", watch=QUICK, hint=HintOptions(HINT),
    )  # fmt: skip
    folder = run_training(config)
    checkpoint = folder / read_json(folder / "summary.json")["checkpoint"]
    there = UNet2DConditionModel.from_pretrained(checkpoint / "unet")
    before = load_prior(str(model_folder), torch.device("cpu")).unet
    decoder = {id(p) for p in decoder_parameters(there)}
    moved = {
        name: (id(p) in decoder, not torch.equal(p, before.get_parameter(name))) for name, p in there.named_parameters()
    }
    assert all(changed == trained for trained, changed in moved.values())
    painter = Painter(str(model_folder), [checkpoint], make_recipe("tabletop", {"steps": 1}), "cpu")
    assert torch.equal(painter.pipe.unet.conv_out.weight, there.conv_out.weight)

    # another run starts from both: the trained decoder and the trained outputs
    onward = replace(config, name="onward", init=str(checkpoint), steps=1, lr=1e-20)
    with pytest.raises(CnlabError, match="add --unlock-decoder"):
        run_training(replace(onward, unlock_decoder=False))
    place = run_training(onward)
    place /= read_json(place / "summary.json")["checkpoint"]
    assert torch.equal(UNet2DConditionModel.from_pretrained(place / "unet").conv_out.weight, there.conv_out.weight)
    one, two = load_control(place), load_control(checkpoint)
    assert two.controlnet_mid_block.weight.any()
    assert torch.equal(one.controlnet_mid_block.weight, two.controlnet_mid_block.weight)


@pytest.mark.slow
def test_sdxl_trains_validates_and_draws(xl_folder: Path, dataset: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        dataset=dataset, model=str(xl_folder), out=tmp_path, name="run", steps=2, batch=2, lr=1e-2, validate_every=2,
        device="cpu", watch=QUICK, hint=HintOptions(HINT),
    )  # fmt: skip
    folder = run_training(config)
    checkpoint = folder / read_json(folder / "summary.json")["checkpoint"]
    painter = Painter(str(xl_folder), [checkpoint], make_recipe("tabletop", {"steps": 1, "block": 1}), "cpu")
    maps = np.zeros((1, 64, 64, 3), np.uint8)
    assert painter(["a cube"], [maps], [1], 64).shape == (1, 64, 64, 3)
    cached = run_training(replace(config, name="cached", engine=("text_cache",)))
    ends = [read_json(f / "summary.json")["validation"]["loss/true"] for f in (folder, cached)]
    assert ends[0] == pytest.approx(ends[1], rel=1e-2)  # the cache rounds states to float16


def test_sdxl_states_are_those_of_the_public_pipeline(xl_folder: Path) -> None:
    from diffusers import StableDiffusionXLPipeline

    prior = load_prior(str(xl_folder), torch.device("cpu"))
    texts = ["a red cube and a cone", "a sphere"]
    found = prior.text_conditions(prior.encode_text(prior.tokenize(texts)), 64)
    pipe = StableDiffusionXLPipeline.from_pretrained(xl_folder, add_watermarker=False)
    states, _, pooled, _ = pipe.encode_prompt(texts, device="cpu", do_classifier_free_guidance=False)
    assert torch.equal(found["states"], states)
    assert torch.equal(found["pooled"], pooled)
    expected = pipe._get_add_time_ids((64, 64), (0, 0), (64, 64), states.dtype, pooled.shape[-1])
    assert torch.equal(found["time_ids"][:1], expected)


def test_start_from_a_trained_net(
    model_folder: Path, dataset: Path, tmp_path: Path, unet: UNet2DConditionModel
) -> None:
    begun = build_control(unet, (8, 8, 8, 16), 3)
    torch.nn.init.normal_(begun.controlnet_mid_block.weight)
    begun.save_pretrained(tmp_path / "begun")
    again = build_control(unet, HINT, 0, "gaussian", init=str(tmp_path / "begun"))
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in begun.state_dict().items())
    with pytest.raises(CnlabError, match="neither a ControlNet folder"):
        build_control(unet, HINT, 0, init=str(tmp_path / "nothing"))


def test_transfer_adds_what_separates_the_models(
    model_folder: Path, unet: UNet2DConditionModel, tmp_path: Path, xl_folder: Path
) -> None:
    """A net that is an untrained copy of the source becomes an untrained copy of the target."""
    torch.manual_seed(5)
    other = UNet2DConditionModel.from_config(unet.config)
    other.save_pretrained(tmp_path / "other" / "unet")
    build_control(unet, HINT, 0).save_pretrained(tmp_path / "control")
    given = (str(tmp_path / "control"), str(model_folder), str(tmp_path / "other"), tmp_path / "moved")
    moved = load_control(transfer(TransferConfig(*given)))
    expected = ControlNetModel.from_unet(other, conditioning_embedding_out_channels=HINT)
    for name, value in expected.state_dict().items():
        if name.startswith(("conv_in", "time_embedding", "down_blocks", "mid_block")):
            assert torch.allclose(moved.state_dict()[name], value, atol=1e-6), name
    hint = "controlnet_cond_embedding.conv_in.weight"
    assert torch.equal(moved.state_dict()[hint], load_control(tmp_path / "control").state_dict()[hint])
    with pytest.raises(CnlabError, match="exists already"):
        transfer(TransferConfig(*given))
    with pytest.raises(CnlabError, match="layouts differ"):
        transfer(TransferConfig(given[0], given[1], str(xl_folder), tmp_path / "wrong"))
    assert not (tmp_path / "wrong").exists()


def test_the_latent_hint_is_what_the_pictures_latents_are(prior: Prior) -> None:
    """The map, as a picture in [-1, 1], through the prior's autoencoder, scaled; the noisy latent is not read."""
    control = build_control(prior.unet, HINT, 0, variant="vae", vae=prior.vae)
    maps = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = prior.vae.encode(maps * 2 - 1).latent_dist.mean * prior.vae.config.scaling_factor
        assert torch.allclose(control.encode(maps), expected, atol=1e-5)
        for zero in control.controlnet_down_blocks:
            torch.nn.init.ones_(zero.weight)
        batch = inputs()
        ends = [
            control(noisy, batch["t"], batch["states"], batch["hint"], return_dict=False)[0][-1]
            for noisy in (batch["noisy"], torch.zeros_like(batch["noisy"]))
        ]
    assert torch.equal(*ends)
    assert not any(p.requires_grad for p in (*control.encoder.parameters(), *control.quant_conv.parameters()))
    assert control.conv_in.weight.requires_grad


def test_a_low_rank_update_is_merged_in_the_folder(prior: Prior, tmp_path: Path) -> None:
    """The folder is a plain ControlNet that computes what the net with its factors computes."""
    control = build_control(prior.unet, HINT, 0, variant="lora", rank=2)
    updates = factors(control)
    assert updates
    assert {min(p.shape) for p in updates.values()} == {2}
    with torch.no_grad():
        for parameter in (*updates.values(), *control.controlnet_down_blocks.parameters()):
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(2))
    control.save_pretrained(tmp_path)
    loaded = load_control(tmp_path)
    assert type(loaded) is ControlNetModel
    batch = inputs()
    with torch.no_grad():
        own, theirs = (predict(prior.unet, net, batch) for net in (control, loaded.train()))
    assert torch.allclose(own, theirs, atol=1e-4)
    trained = {name for name, p in control.named_parameters() if p.requires_grad}
    assert not any(
        "attn1.to_q.weight" in name or "conv1.weight" in name or name.startswith("conv_in") for name in trained
    )
    assert any(".norm1." in name for name in trained)
    assert any(name.startswith("controlnet_cond_embedding") for name in trained)


@pytest.mark.parametrize("variant", ["vae", "lora"])
@pytest.mark.slow
def test_new_variants_resume_bit_equal_and_export(
    variant: str, model_folder: Path, dataset: Path, tmp_path: Path
) -> None:
    config = TrainConfig(
        dataset=dataset, model=str(model_folder), out=tmp_path, name="whole", variant=variant, steps=4, batch=2,  # type: ignore[arg-type]
        lr=1e-2, validate_every=4, save_every=2, device="cpu", watch=QUICK, hint=HintOptions(HINT),
        lora_rank=4 if variant == "lora" else None,
        optimizer=OptimizerOptions(schedule="constant", ema=0.5),
    )  # fmt: skip
    whole = run_training(config)
    part = run_training(replace(config, name="part", steps=2))
    run_training(replace(config, extend=part, name="", dataset=dataset))
    weights = [load_control(checkpoint_path(folder, 4)).state_dict() for folder in (whole, part)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    if variant == "lora":
        both = [load_tensors(checkpoint_path(folder, 4) / FACTORS) for folder in (whole, part)]
        assert all(torch.equal(value, both[1][name]) for name, value in both[0].items())
        assert any(value.any() for name, value in both[0].items() if name.endswith("up"))
    out = export(ExportConfig(whole, tmp_path / "out"))
    assert type(load_control(out)) is (ControlNetModel if variant == "lora" else ControlNetVae)
    if variant == "lora":
        export(ExportConfig(whole, tmp_path / "one.safetensors", layout="single"))
    else:
        with pytest.raises(CnlabError, match="ControlNetVae"):
            export(ExportConfig(whole, tmp_path / "one.safetensors", layout="single"))
