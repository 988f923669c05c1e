"""What a picture depends on: its own inputs and its place in its block, nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from evaluation import threads
from evaluation.samples import EvalSet
from evaluation.sampling import RECIPES, Painter, Recipe, make_recipe, seed_of
from pipeline.contract.errors import CnlabError
from trainer.run_folder import open_run

PINNED_SEED = 1196646840847950019
RECIPE = make_recipe("tabletop", {"steps": 2, "block": 4})


@pytest.fixture(scope="module")
def samples(dataset: Path) -> EvalSet:
    return EvalSet(dataset, ["canny"], 4)


def painter_of(run_folder: Path, **changes: Any) -> Painter:
    run = open_run(run_folder)
    return Painter(run.model, [run.checkpoint], replace(RECIPE, **changes), "cpu")


@pytest.fixture(scope="module")
def painter(run_folder: Path) -> Painter:
    return painter_of(run_folder)


def inputs(samples: EvalSet, rows: list[int]) -> tuple[list[str], list[np.ndarray], list[int], int]:
    maps = samples.maps("canny", np.array(rows))[0]
    return [samples.texts[i] for i in rows], [maps], [seed_of(samples.keys[i], 0) for i in rows], samples.size


def test_noise_is_pinned_and_differs_by_key_and_group() -> None:
    # sha256("scene-0\0" + "0"), first 63 bits: changing the rule would change every picture of every run
    assert seed_of("scene-0", 0) == PINNED_SEED
    assert len({seed_of(key, group) for key in "abc" for group in range(3)}) == 9
    assert seed_of("\ud800", 0) >= 0  # a key may hold any text


def test_a_partial_block_has_the_bits_of_a_full_one(painter: Painter, samples: EvalSet) -> None:
    whole = painter(*inputs(samples, [0, 1, 2, 3]))
    for count in (1, 2, 3):
        assert np.array_equal(painter(*inputs(samples, list(range(count)))), whole[:count])
    others = painter(*inputs(samples, [3, 1, 0, 2]))  # the same place among other pictures
    assert np.array_equal(others[1], whole[1])
    assert np.abs(whole[2].astype(int) - whole[1]).max() > 10


def test_blocks_of_one_are_the_public_pipelines_pictures(run_folder: Path, samples: EvalSet) -> None:
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, UniPCMultistepScheduler

    run = open_run(run_folder)
    control = ControlNetModel.from_pretrained(run.checkpoint)
    pipe = StableDiffusionControlNetPipeline.from_pretrained(run.model, controlnet=control, safety_checker=None)
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    texts, (maps,), seeds, _ = inputs(samples, [1])
    theirs = pipe(
        texts, image=torch.from_numpy(maps).permute(0, 3, 1, 2) / 255, num_inference_steps=2, guidance_scale=3.0,
        generator=torch.Generator().manual_seed(seeds[0]), output_type="np",
    ).images  # fmt: skip
    ours = painter_of(run_folder, block=1)(*inputs(samples, [1]))
    assert np.array_equal(ours, (theirs * 255).round().astype(np.uint8))


def test_map_and_caption_reach_the_picture(painter: Painter, samples: EvalSet) -> None:
    texts, maps, seeds, size = inputs(samples, [0])
    base = painter(texts, maps, seeds, size)
    assert not np.array_equal(base, painter(texts, inputs(samples, [1])[1], seeds, size))
    assert not np.array_equal(base, painter(["a small blue cone"], maps, seeds, size))
    assert not np.array_equal(base, painter(texts, maps, [8], size))
    assert np.array_equal(base, painter(texts, maps, seeds, size))


def test_strength_and_negative_prompt_reach_the_picture(run_folder: Path, samples: EvalSet, painter: Painter) -> None:
    run, own = open_run(run_folder), inputs(samples, [0, 1])
    alone = Painter(run.model, [], RECIPE, "cpu")(own[0], [], own[2], own[3])
    assert np.abs(painter_of(run_folder, strength=(0.0,))(*own).astype(int) - alone).max() <= 1
    assert not np.array_equal(painter_of(run_folder, negative_prompt="a cube")(*own), painter(*own))
    twice = Painter(run.model, [run.checkpoint] * 2, replace(RECIPE, strength=(1.0, 0.0)), "cpu")
    texts, maps, seeds, size = own
    assert np.abs(twice(texts, maps * 2, seeds, size).astype(int) - painter(*own)).max() <= 1


@torch.no_grad()
def residuals(painter: Painter, **call: Any) -> list[torch.Tensor]:
    torch.manual_seed(0)
    latents, states = torch.randn(1, 4, 8, 8), torch.randn(1, 32, 16)
    hint = torch.rand(1, 3, 64, 64)
    down, middle = painter.pipe.controlnet(
        latents, 10, encoder_hidden_states=states, controlnet_cond=hint, return_dict=False, **call
    )
    return [*down, middle]


def test_resolution_weights_are_those_of_the_paper(run_folder: Path) -> None:
    """w_i = 64 / h_i: an output of half the largest one's height counts twice; guess mode alone goes from 0.1 to 1."""
    plain = residuals(painter_of(run_folder))
    paper = residuals(painter_of(run_folder, weighting="paper"), guess_mode=True)
    assert [round(float((p / q).nanmean())) for p, q in zip(paper, plain, strict=True)] == [
        8 // q.shape[-1] for q in plain
    ]
    none = residuals(painter_of(run_folder, weighting="none"), guess_mode=True)
    assert all(torch.equal(p, q) for p, q in zip(none, plain, strict=True))
    theirs = residuals(painter_of(run_folder, weighting="diffusers"), guess_mode=True)
    assert torch.allclose(theirs[0], 0.1 * plain[0])
    assert torch.allclose(theirs[-1], plain[-1])


@pytest.mark.parametrize("weighting", ["none", "paper", "diffusers"])
def test_weightings_act_on_the_conditional_half(run_folder: Path, samples: EvalSet, weighting: str) -> None:
    """At guidance 0 the picture is the unconditional half's, which no ControlNet touches."""
    run, own = open_run(run_folder), inputs(samples, [0])
    changed = painter_of(run_folder, weighting=weighting)(*own)
    assert changed.shape == (1, 64, 64, 3)
    assert not np.array_equal(changed, Painter(run.model, [], RECIPE, "cpu")(own[0], [], own[2], own[3]))


def test_a_hint_is_encoded_once_a_block(painter: Painter, samples: EvalSet, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = painter.pipe.controlnet.controlnet_cond_embedding.encoder
    calls: list[int] = []
    forward = encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda hint: (calls.append(1), forward(hint))[1])
    painter(*inputs(samples, [0, 1]))
    painter(*inputs(samples, [2, 3]))
    assert len(calls) == 2  # of 4 steps


def test_the_autoencoder_is_fed_minus_one_to_one_and_read_back_likewise(painter: Painter, samples: EvalSet) -> None:
    seen = []

    class Through:
        """An autoencoder without loss."""

        def encode(self, pixels: torch.Tensor) -> SimpleNamespace:
            seen.append((float(pixels.min()), float(pixels.max())))
            return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: pixels))

        def decode(self, latents: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(sample=latents)

    wired = object.__new__(Painter)
    wired.dtype, wired.recipe = torch.float32, replace(RECIPE, block=3)
    wired.pipe = SimpleNamespace(vae=Through(), device=torch.device("cpu"))
    images = samples.images(np.arange(4))
    images[:, 0, 0], images[:, 0, 1] = 0, 255
    assert np.array_equal(wired.autoencode(images), images)
    assert seen == [(-1.0, 1.0)] * 2
    before = torch.get_num_threads()
    whole = painter.autoencode(np.repeat(images, 5, axis=0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "cpu_count", lambda: 1)
        assert np.array_equal(painter.autoencode(np.repeat(images, 5, axis=0)), whole)  # bits of one core and of many
    assert torch.get_num_threads() == before
    assert painter.autoencode(images[:2]).shape == images[:2].shape


def test_a_recipe_is_written_as_what_differs_from_its_row() -> None:
    assert [recipe.label for recipe in RECIPES.values()] == ["tabletop", "controlnetpp", "paper"]
    changed = make_recipe("paper", {"guidance": 7.5, "strength": (0.5, 1.0), "steps": None})
    assert changed.label == "paper,guidance=7.5,strength=0.5+1"
    assert changed.steps == RECIPES["paper"].steps
    with pytest.raises(CnlabError, match=r"3 ControlNets; give 1 or 3"):
        changed.strengths(3)
    with pytest.raises(CnlabError, match="none of tabletop"):
        make_recipe("mine", {})


def test_what_cannot_be_loaded_is_named(tmp_path: Path, run_folder: Path) -> None:
    run = open_run(run_folder)
    with pytest.raises(CnlabError, match="cannot be loaded"):
        Painter(str(tmp_path / "nothing"), [run.checkpoint], RECIPE, "cpu")
    with pytest.raises(CnlabError, match="no scheduler"):
        Painter(run.model, [], Recipe("tabletop", 1, 1.0, "MyScheduler"), "cpu")
