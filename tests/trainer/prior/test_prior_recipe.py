"""`make prior` from end to end at a toy size: the same code, two steps a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluation.prior.quality import PriorQualityConfig, measure, write_cards
from pipeline.contract.files import read_json
from trainer.nets.models import load_prior
from trainer.prior import __main__ as recipe
from trainer.prior import clip, unet, vae


@pytest.mark.slow
def test_the_recipe_trains_reuses_and_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    for part in (clip, unet, vae):
        monkeypatch.setattr(part, "CONFIG", replace(part.CONFIG, steps=2, batch=4))
    weights = tmp_path / "weights"
    config = recipe.PriorConfig(work=tmp_path / "work", weights=weights, count=32)
    recipe._train(config)
    kept = (weights / "tabletop-sd" / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()
    recipe._train(replace(config, work=tmp_path / "other", reuse=True))
    assert (weights / "tabletop-sd" / "vae" / "diffusion_pytorch_model.safetensors").read_bytes() == kept
    assert load_prior(str(weights / "tabletop-sd"), torch.device("cpu")).vae.config.scaling_factor > 0
    figures = measure(PriorQualityConfig(work=tmp_path / "work", weights=weights, samples=16))
    write_cards(weights, figures, read_json(weights / "training.json"), (1, 2))
    assert "4 steps" not in (weights / "tabletop-clip" / "README.md").read_text()
    assert "2 steps of 4" in (weights / "tabletop-clip" / "README.md").read_text()
    assert 0 <= figures["caption_accuracy"]["renders"]["shape"]["value"] <= 1
    assert np.isfinite(figures["kid_lite0_x1000"]["floor"]["value"])
