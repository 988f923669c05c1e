"""Scores picture by picture: they grow, streams do not load everything, and judges are told apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evaluation import scores as scores_module
from evaluation.judges.features import Extractor
from evaluation.metrics.clip_score import clip_scores
from evaluation.samples import EvalSet
from evaluation.scores import Judges, PictureSet, ScoreStore, higher_is_better, read_scores
from evaluation.subjects import Subject
from pipeline.contract.clip import load_clip
from pipeline.contract.errors import CnlabError


def toy_extractor() -> Extractor:
    def run(images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images.float() / 255, 2).flatten(1)

    return Extractor("toy", ("fd_toy", "kid_toy"), 12, run)


@pytest.fixture
def judges(clip_folder: Path) -> Judges:
    return Judges(str(clip_folder), toy_extractor())


def picture_set(samples: EvalSet, count: int = 6, noise: float = 0.0, **changes: Any) -> PictureSet:
    def read(own: np.ndarray, group: int) -> np.ndarray:
        images = samples.images(own).astype(float)
        for row, index in enumerate(own):
            images[row] += noise * np.random.default_rng([int(index), group]).normal(size=images[row].shape)
        return np.clip(images, 0, 255).astype(np.uint8)

    facts = {"model": "m", "recipe": "r"}
    plain = PictureSet(Subject("control", "demo"), samples, np.arange(count), (0,), ["made", noise], facts, read)
    return replace(plain, **changes)


def test_real_pictures_obey_their_maps_and_not_others(dataset: Path, tmp_path: Path, judges: Judges) -> None:
    """The extractor with the recorded parameters gives back the very map: the judge measures what was asked for."""
    values = ScoreStore(tmp_path, judges).values(picture_set(EvalSet(dataset, ["canny"], 6)), 0)
    for measure in ("f1_0px", "f1_2px", "precision", "recall", "f1"):
        assert values[f"canny_{measure}"].tolist() == [1.0] * 6
    assert values["canny_f1_2px_floor"].max() < 0.7


def test_fidelity_falls_with_noise(dataset: Path, tmp_path: Path, judges: Judges) -> None:
    samples, store = EvalSet(dataset, ["canny"], 6), ScoreStore(tmp_path, judges)
    levels = (0, 4, 8, 16)  # beyond, noise puts edges everywhere and 2 px forgive them: hence the floor
    means = [store.values(picture_set(samples, noise=level), 0)["canny_f1_2px"].mean() for level in levels]
    assert means == sorted(means, reverse=True)
    assert means[-1] < 0.7


def test_a_part_grows_and_measures_only_what_is_new(
    dataset: Path, tmp_path: Path, judges: Judges, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[list[int]] = []
    real = scores_module.measure

    def counting(pictures: PictureSet, images: np.ndarray, own: np.ndarray, *rest: Any) -> Any:
        measured.append(own.tolist())
        return real(pictures, images, own, *rest)

    monkeypatch.setattr(scores_module, "measure", counting)
    store = ScoreStore(tmp_path, judges)
    first = store.scores(picture_set(EvalSet(dataset, ["canny"], 3), 3))
    assert set(first.metric) == {
        "clip_score", "canny_f1_0px", "canny_f1_2px", "canny_precision", "canny_recall", "canny_f1",
        "canny_f1_2px_floor",
    }  # fmt: skip
    more = picture_set(EvalSet(dataset, ["canny"], 6), 6, groups=(0, 1), noise=0.0)
    grown = store.scores(more)
    assert measured == [[0, 1, 2], [3, 4, 5], [0, 1, 2, 3, 4, 5]]
    assert len(grown) == 2 * 6 * 7
    assert len(read_scores(tmp_path)) == len(grown)
    whole = ScoreStore(tmp_path / "whole", judges).scores(more)
    assert np.allclose(grown.value, whole.value, rtol=1e-6)
    store.scores(more)
    assert len(measured) == 5  # three, and two of the fresh store


def test_another_judge_adds_rows_beside_the_first(
    dataset: Path, tmp_path: Path, judges: Judges, clip_folder: Path
) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    other = shutil.copytree(clip_folder, tmp_path / "other-clip")
    tensors = load_file(other / "model.safetensors")
    save_file({name: t * 1.01 for name, t in tensors.items()}, other / "model.safetensors", metadata={"format": "pt"})
    samples = EvalSet(dataset, ["canny"], 3)
    ScoreStore(tmp_path, judges).scores(picture_set(samples, 3))
    table = ScoreStore(tmp_path, Judges(str(other), toy_extractor())).scores(picture_set(samples, 3))
    assert table[table.metric == "clip_score"].metric_version.nunique() == 2
    assert table[table.metric == "canny_f1"].metric_version.nunique() == 1


def test_features_grow_and_are_read_in_parts(
    dataset: Path, tmp_path: Path, judges: Judges, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores_module, "PART", 2)
    most: list[int] = []
    samples = EvalSet(dataset, ["canny"], 6)
    pictures = picture_set(samples)
    read = pictures.read

    def counting(own: np.ndarray, group: int) -> np.ndarray:
        most.append(len(own))
        return read(own, group)

    store = ScoreStore(tmp_path, judges)
    few = store.features(replace(pictures, indices=np.arange(3), read=counting), 0)
    whole = store.features(replace(pictures, read=counting), 0)
    assert most == [2, 1, 2, 1]  # never all at once, and none twice
    assert np.array_equal(whole[:3], few)
    assert np.allclose(whole, ScoreStore(tmp_path / "fresh", judges).features(pictures, 0), atol=1e-6)
    some = store.features(replace(pictures, indices=np.array([0, 5])), 0)  # a folder that lacks pictures
    assert np.allclose(some, whole[[0, 5]], atol=1e-6)
    victim = next((tmp_path / "features").glob("*/*.npy"))
    victim.write_bytes(b"damaged")
    assert np.allclose(store.features(pictures, 0), whole, atol=1e-6)


def test_scores_and_features_take_one_reading(dataset: Path, tmp_path: Path, judges: Judges) -> None:
    reads: list[int] = []
    pictures = picture_set(EvalSet(dataset, ["canny"], 6))

    def counting(own: np.ndarray, group: int) -> np.ndarray:
        reads.extend(own.tolist())
        return pictures.read(own, group)

    store = ScoreStore(tmp_path, judges)
    for count in (4, 6):  # grown, too
        store.values(replace(pictures, indices=np.arange(count), read=counting), 0)
        features = store.features(replace(pictures, indices=np.arange(count), read=counting), 0)
    assert reads == [0, 1, 2, 3, 4, 5]  # through an autoencoder each reading is a decoding
    assert np.allclose(features, ScoreStore(tmp_path / "fresh", judges).features(pictures, 0), atol=1e-6)
    store.features(replace(pictures, read=counting, groups=(1,)), 1)
    store.values(replace(pictures, read=counting, groups=(1,)), 1)
    assert reads[6:] == [0, 1, 2, 3, 4, 5] * 2  # features alone first: a part of their own


def test_maps_that_nothing_can_measure_have_no_score(dataset: Path, judges: Judges) -> None:
    samples = EvalSet(dataset, ["canny"], 2)
    samples.maps = lambda condition, own: (np.zeros((2, 64, 64, 3), np.uint8), [{"given": True}] * 2)  # type: ignore[method-assign]
    assert judges.annotators(samples)[0] == {}
    assert "came with the source" in judges.annotators(samples)[1][0]
    named = Judges(judges.clip_name, judges.extractor, evaluator="softedge")
    assert named.annotators(samples)[0]["canny"].name == "softedge"
    assert named.version_of("canny_ssim") == "1/softedge"


def test_which_way_is_better() -> None:
    lower = ["fd_toy", "kid_toy", "depth_rmse", "normal_angle", "palette_lab_error", "depth_rmse_floor"]
    higher = ["canny_f1", "clip_score", "softedge_ssim", "depth_rmse_normalised", "softedge_psnr"]
    assert [higher_is_better(metric, toy_extractor()) for metric in lower + higher] == [False] * 6 + [True] * 5


@pytest.mark.filterwarnings("ignore:The `device` argument is deprecated")
def test_clip_score_is_that_of_torchmetrics(clip_folder: Path, dataset: Path) -> None:
    from torchmetrics.multimodal import CLIPScore
    from transformers import CLIPModel

    clip, samples = load_clip(str(clip_folder)), EvalSet(dataset, ["canny"], 6)

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

    def processor(**inputs: object) -> object:
        texts = inputs.pop("text", None)
        return (
            clip.tokenizer(texts, return_tensors="pt", padding=True)
            if texts
            else clip.processor(images=inputs["images"], return_tensors="pt")
        )

    metric = CLIPScore(lambda: (Pooled(clip.model), processor))  # type: ignore[arg-type]
    images = samples.images(np.arange(6))
    pictures = torch.from_numpy(images).permute(0, 3, 1, 2)
    ours = clip_scores(clip.images(images), clip.texts(list(samples.texts)))
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
