from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from pipeline.contract.errors import CnlabError
from pipeline.screen.match import ClipMatch
from pipeline.screen.nsfw import Nsfw
from pipeline.tabletop import render, sample_scene

SHIPPED = Path(__file__).resolve().parents[3] / "trainer" / "prior" / "weights" / "tabletop-clip"


def classifier(folder: Path, labels: dict[int, str]) -> Path:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16,
        id2label=labels, label2id={name: i for i, name in labels.items()},
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_true_captions_match_better_than_those_of_other_pictures() -> None:
    judge = ClipMatch(str(SHIPPED))
    judge.prepare()
    scenes = [sample_scene(5, i) for i in range(40)]
    images = [render(scene, 128, 1).image for scene in scenes]
    true = np.array([judge.score(image, s.caption) for image, s in zip(images, scenes, strict=True)])
    swapped = np.array([judge.score(images[i], scenes[i - 1].caption) for i in range(40)])
    assert np.abs([*true, *swapped]).max() <= 1
    area = (true[:, None] > swapped).mean()  # under the ROC curve
    assert (true > swapped).mean() >= 0.9
    assert area >= 0.9


def test_clip_without_a_preprocessor_is_read_at_its_own_size(clip_folder: Path) -> None:
    judge = ClipMatch(str(clip_folder))
    image = render(sample_scene(0, 1), 64, 1).image
    assert -1 <= judge.score(image, "a red cube " * 500) <= 1  # longer than the context
    assert judge.score(image, "a red cube") == judge.score(image, "a red cube")


def test_nsfw_is_the_probability_of_the_label_of_that_name(tmp_path: Path) -> None:
    judge = Nsfw(str(classifier(tmp_path / "a", {0: "normal", 1: "NSFW"})))
    other = Nsfw(str(classifier(tmp_path / "b", {0: "nsfw", 1: "normal"})))  # the same weights, labels exchanged
    image = render(sample_scene(0, 1), 64, 1).image
    assert 0 < judge.score(image) < 1
    assert judge.score(image) + other.score(image) == pytest.approx(1, abs=1e-3)


def test_judges_that_cannot_be_loaded_are_one_line(tmp_path: Path) -> None:
    for judge in (ClipMatch(str(tmp_path)), Nsfw(str(tmp_path))):
        with pytest.raises(CnlabError, match=r"cannot be loaded from .*--weights") as error:
            judge.prepare()
        assert "\n" not in str(error.value)
    with pytest.raises(CnlabError, match="labels must be called nsfw"):
        Nsfw(str(classifier(tmp_path / "c", {0: "cat", 1: "dog"}))).prepare()


@pytest.mark.slow
def test_judges_screen_a_build(tmp_path: Path, clip_folder: Path) -> None:
    import pandas as pd

    from pipeline.build.run import build
    from pipeline.config import DatasetConfig

    nsfw = classifier(tmp_path / "nsfw", {0: "normal", 1: "nsfw"})
    common = {"size": "12", "eval_size": 4, "image_size": 64, "workers": 0, "out": tmp_path, "block": 8, "seed": 3}
    weights = {"clip": str(SHIPPED), "nsfw": str(nsfw)}
    first = DatasetConfig(name="open", weights=weights, threshold={"min_clip": -1.0, "max_nsfw": 1.0}, **common)  # type: ignore[arg-type]
    build(first)
    rows = pd.concat(pd.read_parquet(p) for p in sorted((tmp_path / "open").glob("*-0*.parquet")))
    assert rows.clip_match.between(-1, 1).all()
    assert rows.nsfw.between(0, 1).all()
    middle = {"min_clip": float(rows.clip_match.median()), "max_nsfw": float(rows.nsfw.median())}
    build(DatasetConfig(name="half", weights=weights, threshold=middle, **common))  # type: ignore[arg-type]
    kept = pd.concat(pd.read_parquet(p) for p in sorted((tmp_path / "half").glob("*-0*.parquet")))
    assert len(kept) == 16
    assert kept.clip_match.min() >= middle["min_clip"] - 1e-6
    assert kept.nsfw.max() <= middle["max_nsfw"] + 1e-6
    rejects = pd.read_parquet(tmp_path / "half" / "rejects.parquet")
    assert set(rejects.reason) == {"caption_mismatch", "nsfw"}
    assert set(rows.key[rows.clip_match < middle["min_clip"]]) <= set(rejects.key[rejects.reason == "caption_mismatch"])


def test_weights_for_what_takes_none_are_refused(tmp_path: Path) -> None:
    from pipeline.build.run import build
    from pipeline.config import DatasetConfig

    with pytest.raises(CnlabError, match="clipp"):
        build(DatasetConfig(size="4", eval_size=2, workers=0, out=tmp_path, weights={"clipp": "x"}))
