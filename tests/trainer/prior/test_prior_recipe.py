"""`make prior` from end to end at a toy size: the same code, two steps a model."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluation.prior.quality import PriorQualityConfig, measure, write_cards
from pipeline.contract.files import read_json, write_json
from trainer.nets.models import load_prior
from trainer.parallel import Ranks
from trainer.prior import clip, decoder, judge, recipe, unet, vae
from trainer.prior.__main__ import PriorConfig
from trainer.state.checkpoint import list_checkpoints, load_tensors


@pytest.mark.slow
def test_the_recipe_trains_reuses_and_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    for part in (clip, judge, unet, vae, decoder):
        monkeypatch.setattr(part, "CONFIG", replace(part.CONFIG, steps=2, batch=4, milestones=(1,)))
    monkeypatch.setattr(unet, "AGAIN", replace(unet.AGAIN, steps=3, batch=4))
    monkeypatch.setattr(recipe, "FORECAST_SAMPLES", 32)
    weights = tmp_path / "weights"
    config = PriorConfig(work=tmp_path / "work", weights=weights, count=32, judge_count=32)
    recipe.train(replace(config, part="judge"), Ranks())
    assert sorted(p.name for p in weights.iterdir()) == ["tabletop-judge", "training.json"]
    killed = config.work / ".vae-final.1.part"
    killed.mkdir()
    recipe.train(config, Ranks())
    assert not killed.exists()
    forecasts = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.endswith(" h")]
    parts = ["judge", "clip", "vae", "unet", "unet-again", "decoder"]
    assert forecasts == ["renders", "judge", "all", "renders", *parts, "all"]
    assert (config.work / "unet" / "ema-0000001.safetensors").exists()
    assert [p.name for p in list_checkpoints(config.work / "unet-again")] == ["step-0000003"]
    autoencoder = weights / "tabletop-sd" / "vae" / "diffusion_pytorch_model.safetensors"
    kept = load_tensors(autoencoder)
    other, own = tmp_path / "other", weights / "tabletop-sd" / "unet"
    shutil.copytree(own, other / "unet-first")  # a finished denoiser is trained on
    before = load_tensors(own / "diffusion_pytorch_model.safetensors")
    recipe.train(replace(config, work=other, part="unet"), Ranks())
    assert not (other / "unet").exists()
    after = load_tensors(own / "diffusion_pytorch_model.safetensors")
    kept_on = [name for name in before if name.startswith(("up_blocks.2.", "up_blocks.3.", "conv_out."))]
    moved = max((after[name].float() - before[name].float()).abs().max().item() for name in kept_on)
    assert 0 < moved < 1e-3  # three steps of the warm-up, from the weights that were there
    changed = {name for name, value in load_tensors(autoencoder).items() if not torch.equal(value, kept[name])}
    assert changed
    assert all(name.startswith(("decoder.", "post_quant_conv.")) for name in changed)  # latents mean what they meant
    assert load_prior(str(weights / "tabletop-sd"), torch.device("cpu")).vae.config.scaling_factor > 0
    figures = measure(PriorQualityConfig(work=tmp_path / "work", weights=weights, samples=16))
    write_cards(weights, figures, read_json(weights / "training.json"), (1, 2))
    (point,) = figures["learning_curve"]
    assert point["samples_seen"] == 4
    assert "| 4 | " in (weights / "tabletop-sd" / "README.md").read_text()
    assert "16 x 16 x 8 latents" in (weights / "tabletop-sd" / "README.md").read_text()
    milestone = config.work / "unet" / "ema-0000001.json"
    milestone.write_text(milestone.read_text().replace(str(point["kid_lite0_x1000"]["floor"]["value"]), "7.125"))
    again = measure(PriorQualityConfig(work=tmp_path / "work", weights=weights, samples=16))
    (point,) = again["learning_curve"]
    assert point["kid_lite0_x1000"]["floor"]["value"] == 7.125  # what is there is not measured anew
    write_json(weights / "measured.json", again)
    for samples, points in ((16, again["learning_curve"]), (12, [])):
        elsewhere = measure(PriorQualityConfig(work=other, weights=weights, samples=samples))
        assert elsewhere["learning_curve"] == points  # the last card's, where they were drawn alike
    assert "4 steps" not in (weights / "tabletop-clip" / "README.md").read_text()
    assert "2 steps of 4" in (weights / "tabletop-clip" / "README.md").read_text()
    assert "only judges" in (weights / "tabletop-judge" / "README.md").read_text()
    assert 0 <= figures["caption_accuracy_of_samples"]["shape"]["value"] <= 1
    assert figures["reconstruction"]["canny_f1_2px"]["value"] >= figures["reconstruction"]["canny_f1_0px"]["value"]
    assert np.isfinite(figures["kid_lite0_x1000"]["floor"]["value"])
