from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evaluation.judges import named
from evaluation.judges.features import extract
from evaluation.judges.named import get_extractor
from pipeline.contract.errors import CnlabError

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)


def test_lite0_by_name() -> None:
    assert get_extractor("lite0").distance == ("fd_lite0", "kid_lite0")


def test_clip_features_are_the_models_own(clip_folder: Path) -> None:
    from pipeline.contract.clip import load_clip

    extractor = get_extractor(f"clip:{clip_folder}")
    assert extractor.distance == ("fd_clip-clip", "kid_clip-clip")
    assert extract(IMAGES, extractor) == pytest.approx(load_clip(str(clip_folder)).images(IMAGES), rel=1e-5)


def test_a_folder_of_any_vision_model(tmp_path: Path) -> None:
    from transformers import Dinov2Config, Dinov2Model, ViTImageProcessor

    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(tmp_path / "dino")
    ViTImageProcessor(size={"height": 28, "width": 28}).save_pretrained(tmp_path / "dino")
    extractor = get_extractor(f"model:{tmp_path / 'dino'}")
    assert extractor.distance == ("fd_model-dino", "kid_model-dino")
    features = extract(IMAGES, extractor)
    assert features.shape == (3, extractor.width) == (3, 16)
    assert np.allclose(features, extract(IMAGES, extractor, batch=1), atol=1e-5)


def test_torchvision_gives_what_stands_before_the_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import models

    real = models.get_model
    torch.manual_seed(0)
    monkeypatch.setattr(models, "get_model", lambda name, weights: real(name, weights=None))  # no network
    extractor = get_extractor("torchvision:mobilenet_v3_small")
    assert extract(IMAGES, extractor).shape == (3, extractor.width)
    assert "IMAGENET1K" in extractor.name


def test_unknown_and_absent_models_get_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("vgg", "clip", "model:"):
        with pytest.raises(CnlabError, match="there are lite0, inception"):
            get_extractor(name)
    with pytest.raises(CnlabError):
        get_extractor(f"model:{tmp_path / 'none'}")

    def offline(*_: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(CnlabError, match=r"cannot be fetched \(no route to host\); download http"):
        get_extractor("inception")
    assert named.KINDS.startswith("lite0")
