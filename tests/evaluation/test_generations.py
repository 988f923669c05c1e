from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from evaluation.generations import file_of, generate, identity, load_generated
from evaluation.sampling import Painter, Recipe, seed_of
from evaluation.subjects import Samples, load_samples
from pipeline.contract.errors import CnlabError
from pipeline.contract.files import read_json, write_json
from pipeline.contract.pictures import stack_images, to_uint8, write_picture
from trainer.run_folder import open_run

PINNED_SEED = 1196646840847950019
RECIPE = Recipe(steps=2, guidance=3.0)


@pytest.fixture(scope="module")
def samples(dataset: Path) -> Samples:
    return load_samples(dataset, "canny", 4)


@pytest.fixture(scope="module")
def painter(run_folder: Path) -> Painter:
    run = open_run(run_folder)
    return Painter(run.model, run.checkpoint, RECIPE, "cpu")


class Stop(Exception):
    pass


def job(run_folder: Path, samples: Samples, arm: str = "control", steps: int = 2) -> dict:  # type: ignore[type-arg]
    return identity(open_run(run_folder), arm, samples, (0,), Recipe(steps, 3.0))


def test_noise_is_pinned_and_differs_by_key_and_group() -> None:
    # sha256("scene-0\0" + "0"), first 63 bits: changing the rule would change every picture of every run
    assert seed_of("scene-0", 0) == PINNED_SEED
    assert len({seed_of(key, group) for key in "abc" for group in range(3)}) == 9
    assert file_of("scene-0", 2).endswith("-2.png")
    assert seed_of("\ud800", 0) >= 0  # a key may hold any text


def test_a_picture_depends_on_its_own_inputs_alone(painter: Painter, samples: Samples) -> None:
    """Not on the batch it is painted in, its place there, or what was painted before."""
    texts, seeds = list(samples.texts), [seed_of(k, 0) for k in samples.keys]
    together = painter(texts, samples.maps, seeds).astype(int)
    alone = painter(texts[2:3], samples.maps[2:3], seeds[2:3]).astype(int)
    assert np.abs(together[2] - alone[0]).max() <= 1  # rounding to 8 bits
    assert np.abs(together[2] - together[1]).max() > 10


def test_map_and_caption_reach_the_picture(painter: Painter, samples: Samples) -> None:
    texts, seeds = list(samples.texts[:1]), [7]
    base = painter(texts, samples.maps[:1], seeds)
    assert not np.array_equal(base, painter(texts, samples.maps[1:2], seeds))
    assert not np.array_equal(base, painter(["a small blue cone"], samples.maps[:1], seeds))
    assert not np.array_equal(base, painter(texts, samples.maps[:1], [8]))
    assert np.array_equal(base, painter(texts, samples.maps[:1], seeds))


def test_generation_resumes_after_a_kill(tmp_path: Path, run_folder: Path, samples: Samples, painter: Painter) -> None:
    whole, broken = tmp_path / "whole" / "control", tmp_path / "broken" / "control"
    request, painted = job(run_folder, samples), []

    def dying(texts: list[str], *rest: object) -> np.ndarray:
        if painted:
            raise Stop
        painted.append(len(texts))
        return painter(texts, *rest)  # type: ignore[arg-type]

    assert generate(whole, request, samples, 2, lambda: painter) == 4
    with pytest.raises(Stop):
        generate(broken, request, samples, 2, lambda: dying)  # type: ignore[arg-type, return-value]
    assert not (broken / "manifest.json").exists()
    assert generate(broken, request, samples, 2, lambda: painter) == 2
    assert np.array_equal(load_generated(broken, samples, 0), load_generated(whole, samples, 0))
    assert (broken / "manifest.json").read_bytes() == (whole / "manifest.json").read_bytes().replace(
        b'"whole"', b'"broken"'
    )

    def never() -> Painter:
        raise AssertionError("models were loaded although all pictures are there")

    assert generate(broken, request, samples, 2, never) == 0


def test_the_manifest_says_what_the_contract_says(
    tmp_path: Path, run_folder: Path, samples: Samples, painter: Painter
) -> None:
    folder = tmp_path / "demo" / "shuffled"
    generate(folder, job(run_folder, samples, "shuffled"), samples, 4, lambda: painter)
    manifest = read_json(folder / "manifest.json")
    assert {"fingerprint", "run", "dataset", "arm", "images"} <= set(manifest)
    assert (manifest["run"], manifest["arm"], manifest["dataset"]) == ("demo", "shuffled", "tiny")
    for entry in manifest["images"]:
        assert {"file", "key", "text", "map_key", "seed"} <= set(entry)
        assert entry["map_key"] != entry["key"]
        assert (folder / entry["file"]).is_file()
    other = [samples.keys.index(entry["map_key"]) for entry in manifest["images"]]
    seeds = [entry["seed"] for entry in manifest["images"]]
    expected = painter(list(samples.texts), samples.maps[other], seeds)  # own caption and noise, another's map
    assert np.array_equal(load_generated(folder, samples, 0), expected)


def test_the_autoencoder_is_fed_minus_one_to_one_and_read_back_likewise(painter: Painter, samples: Samples) -> None:
    seen = []

    class Through:
        """An autoencoder without loss."""

        def encode(self, pixels: torch.Tensor) -> SimpleNamespace:
            seen.append((float(pixels.min()), float(pixels.max())))
            return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: pixels))

        def decode(self, latents: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(sample=latents)

    wired = object.__new__(Painter)
    wired.dtype = torch.float32
    wired.pipe = SimpleNamespace(vae=Through(), device="cpu")
    images = samples.images.copy()
    images[:, 0, 0], images[:, 0, 1] = 0, 255
    assert np.array_equal(wired.autoencode(images, 3), images)
    assert seen == [(-1.0, 1.0)] * 2
    assert painter.autoencode(samples.images, 2).shape == samples.images.shape


def test_a_foreign_request_is_refused_finished_or_not(
    tmp_path: Path, run_folder: Path, samples: Samples, painter: Painter
) -> None:
    folder = tmp_path / "demo" / "control"
    generate(folder, job(run_folder, samples), samples, 4, lambda: painter)
    with pytest.raises(CnlabError, match="another configuration"):
        generate(folder, job(run_folder, samples, steps=3), samples, 4, lambda: painter)
    (folder / "manifest.json").unlink()
    with pytest.raises(CnlabError, match="another configuration"):
        generate(folder, job(run_folder, samples, steps=3), samples, 4, lambda: painter)


def test_missing_and_damaged_pictures_are_named(
    tmp_path: Path, run_folder: Path, samples: Samples, painter: Painter
) -> None:
    folder = tmp_path / "demo" / "control"
    generate(folder, job(run_folder, samples), samples, 4, lambda: painter)
    with pytest.raises(CnlabError, match="in group 1"):
        load_generated(folder, samples, 1)
    victim = folder / file_of(samples.keys[0], 0)
    victim.write_bytes(victim.read_bytes()[:100])
    with pytest.raises(CnlabError, match=victim.name):
        load_generated(folder, samples, 0)
    write_picture(victim, np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(CnlabError, match="image 1 is 64x64, image 0 is 8x8"):
        load_generated(folder, samples, 0)


def test_image_guards() -> None:
    good = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(CnlabError, match="1 images, at least 2"):
        stack_images([good], "set")
    with pytest.raises(CnlabError, match="0 images"):
        stack_images([], "set")
    with pytest.raises(CnlabError, match="not \\(H, W, 3\\) uint8"):
        stack_images([good, good[..., 0]], "set")
    with pytest.raises(CnlabError, match="image 1 of a batch holds NaN"):
        to_uint8(np.stack([np.zeros((2, 2, 3)), np.full((2, 2, 3), np.nan)]), "x")
    assert to_uint8(np.array([-0.1, 0.5, 1.2]).reshape(1, 1, 1, 3), "x").ravel().tolist() == [0, 128, 255]


def test_a_prior_is_known_by_its_hash_not_by_its_place(run_folder: Path, samples: Samples, model_folder: Path) -> None:
    run = open_run(run_folder)
    assert run.model == str(model_folder)
    assert run.dataset.name == "tiny"
    assert job(run_folder, samples)["model"] == {"sha256": "x"}
    assert str(model_folder) not in str(job(run_folder, samples))


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda f: (f / "summary.json").unlink(), "not a finished run"),
        (lambda f: (f / "config.json").unlink(), "config.json does not exist"),
        (lambda f: write_json(f / "summary.json", {"step": 1}), "lacks checkpoint"),
        (lambda f: write_json(f / "config.json", {}), "lacks model, dataset"),
        (lambda f: (f / "checkpoints" / "step-0000010").rename(f / "gone"), "step-0000010 does not exist"),
    ],
)
def test_broken_runs_get_one_line(tmp_path: Path, run_folder: Path, break_it, said: str) -> None:  # type: ignore[no-untyped-def]
    import shutil

    copy = shutil.copytree(run_folder, tmp_path / "run")
    break_it(copy)
    with pytest.raises(CnlabError, match=said):
        open_run(copy)


def test_samples_are_the_first_of_the_split(dataset: Path) -> None:
    assert len(load_samples(dataset, "canny", 1000)) == 6
    first = load_samples(dataset, "canny", 2)
    assert first.keys == ("scene-0", "scene-1")
    assert first.params[1] == {"low": 61, "high": 151}
    assert load_samples(dataset, "canny", 2, "train").keys == ("scene-1000", "scene-1001")
    with pytest.raises(CnlabError, match="no condition 'depth'"):
        load_samples(dataset, "depth", 2)
    with pytest.raises(CnlabError, match="1 images"):
        load_samples(dataset, "canny", 1)


def test_a_model_that_is_not_there_is_named(tmp_path: Path, run_folder: Path) -> None:
    with pytest.raises(CnlabError, match="cannot be loaded"):
        Painter(str(tmp_path / "nothing"), open_run(run_folder).checkpoint, RECIPE, "cpu")
