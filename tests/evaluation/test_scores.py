from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation.judges.features import Extractor
from evaluation.metrics.clip_score import clip_scores
from evaluation.scores import Judges, Scores, estimates, fidelity_scores, measure, normalised, to_rows
from evaluation.subjects import Samples, load_samples
from pipeline.contract.clip import load_clip
from pipeline.contract.errors import CnlabError


@pytest.fixture(scope="module")
def samples(dataset: Path) -> Samples:
    return load_samples(dataset, "canny", 6)


@pytest.fixture
def judges(clip_folder: Path, tmp_path: Path) -> Judges:
    def run(images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images.float() / 255, 2).flatten(1)

    return Judges(str(clip_folder), Extractor("toy", ("fd_toy", "kid_toy"), 12, run), tmp_path / "features")


def test_real_pictures_reach_the_ceiling_of_one(samples: Samples) -> None:
    """The extractor with the recorded parameters gives back the very map: the judge measures what was asked for."""
    scores = fidelity_scores(samples.images, samples)
    assert scores["f1_0px"].tolist() == [1.0] * 6
    assert scores["f1_2px"].tolist() == [1.0] * 6


def test_each_picture_meets_its_own_map_and_parameters(samples: Samples) -> None:
    turned = np.roll(samples.images, 1, axis=0)
    scores = fidelity_scores(turned, samples)
    assert scores["f1_0px"].max() < 0.5
    assert (scores["f1_2px"] >= scores["f1_0px"]).all()
    mixed = samples.images.copy()
    mixed[3] = 0
    assert fidelity_scores(mixed, samples)["f1_0px"].tolist() == [1, 1, 1, 0, 1, 1]


def test_fidelity_falls_with_noise(samples: Samples) -> None:
    noise = np.random.default_rng(0).normal(size=samples.images.shape)
    means = []
    for level in (0, 4, 8, 16):  # beyond, noise puts edges everywhere and 2 px forgive them: hence floor rows
        noisy = np.clip(samples.images + level * noise, 0, 255).astype(np.uint8)
        means.append(fidelity_scores(noisy, samples)["f1_2px"].mean())
    assert means == sorted(means, reverse=True)
    assert means[-1] < 0.7


def test_maps_that_nothing_can_measure_have_no_score(samples: Samples) -> None:
    import dataclasses

    given = tuple({"given": True} for _ in samples.params)  # edges drawn elsewhere, by an unknown rule
    assert fidelity_scores(samples.images, dataclasses.replace(samples, params=given)) == {}
    assert fidelity_scores(samples.images, dataclasses.replace(samples, condition="depth-of-the-source")) == {}


@pytest.mark.filterwarnings("ignore:The `device` argument is deprecated")
def test_clip_score_is_that_of_torchmetrics(clip_folder: Path, samples: Samples) -> None:
    from torchmetrics.multimodal import CLIPScore
    from transformers import CLIPModel

    clip = load_clip(str(clip_folder))

    class Pooled:
        """torchmetrics 1.9 expects bare tensors from a CLIPModel; transformers 5 wraps them."""

        config = clip.model.config

        def __init__(self, model: CLIPModel) -> None:
            self.model = model

        def to(self, device: object) -> Pooled:
            return self

        def eval(self) -> Pooled:
            return self

        def get_image_features(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.model.get_image_features(pixels).pooler_output

        def get_text_features(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.model.get_text_features(ids, mask).pooler_output

    def processor(**given: object) -> object:
        texts = given.pop("text", None)
        return (
            clip.tokenizer(texts, return_tensors="pt", padding=True)
            if texts
            else clip.processor(images=given["images"], return_tensors="pt")
        )

    metric = CLIPScore(lambda: (Pooled(clip.model), processor))  # type: ignore[arg-type]
    pictures = torch.from_numpy(samples.images).permute(0, 3, 1, 2)
    ours = clip_scores(clip.images(samples.images), clip.texts(list(samples.texts)))
    for i in range(6):  # one at a time: then torchmetrics, too, cuts off below 0 by sample
        metric.reset()
        metric.update(pictures[i], samples.texts[i])
        assert ours[i] == pytest.approx(float(metric.compute().detach()), rel=1e-4, abs=1e-4)
    assert ours.std() > 0


def test_long_captions_are_cut_and_missing_models_named(clip_folder: Path, tmp_path: Path) -> None:
    long = load_clip(str(clip_folder)).texts(["a sphere " * 200, "a cone"])
    assert np.isfinite(long).all()
    with pytest.raises(CnlabError, match="'clip' cannot be loaded"):
        load_clip(str(tmp_path))


def test_measure_and_rows(samples: Samples, judges: Judges) -> None:
    scores = measure(samples.images, samples, judges)
    assert scores.clip.shape == (6,)
    assert scores.features.shape == (6, 12)
    found = estimates(scores, "canny", judges, scores.features)
    assert set(found) == {"clip_score", "canny_f1_0px", "canny_f1_2px", "fd_toy", "kid_toy"}
    assert found["fd_toy"].value == pytest.approx(0, abs=1e-6)
    assert found["canny_f1_0px"].value == 1
    rows = {row["metric"]: row for row in to_rows(found, judges, {"run": "r"})}
    assert rows["fd_toy"]["higher_is_better"] is False
    assert rows["clip_score"]["higher_is_better"] is True
    assert judges.clip_id in rows["clip_score"]["metric_version"]
    assert judges.clip_id.startswith("clip-")
    assert all(row["n"] == 6 for row in rows.values())
    assert set(estimates(scores, "canny", judges, None)) == {"clip_score", "canny_f1_0px", "canny_f1_2px"}
    with pytest.raises(CnlabError, match="2 pictures for 6 samples"):
        measure(samples.images[:2], samples, judges)


def test_normalised_places_arms_between_floor_and_ceiling() -> None:
    def scores(level: float) -> Scores:
        edges = {"f1_0px": np.zeros(5), "f1_2px": np.linspace(level, level + 0.05, 5)}
        return Scores(np.zeros(5), edges, np.zeros((5, 2), np.float32))

    found = normalised(scores(0.5), scores(0.3), scores(0.7), "canny")
    assert found["canny_f1_2px_normalised"].value == pytest.approx(0.5)
    assert normalised(scores(0.5), scores(0.7), scores(0.7), "canny") == {}  # floor at the ceiling: no scale
    bare = Scores(np.zeros(5), {}, np.zeros((5, 2), np.float32))
    assert normalised(bare, bare, bare, "depth") == {}
