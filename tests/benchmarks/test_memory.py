"""Bounds on what real models take of a GPU's memory, measured under fake tensors."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel

from benchmarks.flops import count, denoising
from benchmarks.memory import MODELS, training_of
from pipeline.contract.errors import CnlabError
from trainer.config import PRESETS
from trainer.loop import predict
from trainer.memory import GIB, measure_encode, measure_forward, plan
from trainer.plan import CARDS, Planner

pytestmark = pytest.mark.slow

SD15, SIZE = MODELS["SD 1.5"]


def test_sd15_encodes_within_six_gib() -> None:
    encoding = measure_encode(SD15, 4, SIZE)
    assert encoding.peak + encoding.weights < 6 * GIB
    assert encoding.peak / GIB == pytest.approx(2.5, rel=0.1)


def test_a_step_of_sd15_casts_little_and_the_plan_agrees() -> None:
    training = training_of(checkpointing=True)
    estimate = plan(SD15, training, SIZE)
    forward = measure_forward(SD15, training, 4, SIZE)
    assert forward.casts <= 400
    assert estimate.fixed + 4 * estimate.per_image == pytest.approx(forward.peak, rel=0.1)
    assert estimate.needs(8) < 16 * GIB
    assert estimate.micro_batch(64, 16 * GIB) >= 8
    planner = Planner(SD15, training, SIZE)
    assert planner.split(80 * GIB).accumulate == 1
    with pytest.raises(CnlabError, match=r"one image at a time needs .* --optimizer.eight-bit, --engine text_cache"):
        planner.split(4 * GIB)


def test_looking_costs_at_most_a_twentieth_of_training() -> None:
    """Operations of the `sd` preset on SD 1.5 at 512 px: pictures with guidance, their decoding, two arms of losses."""
    watch, every = PRESETS["sd"].watch, PRESETS["sd"].validate_every
    with torch.device("meta"):
        unet = SD15.build_unet()
        control = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
        vae = AutoencoderKL.from_config(SD15.vae)
        latents, text = torch.empty(1, 4, 64, 64), torch.empty(1, 77, 768)
        batch = {"noisy": latents, "t": torch.zeros(1, dtype=torch.int64), "states": text,
                 "hint": torch.empty(1, 3, 512, 512)}  # fmt: skip
    with torch.no_grad():
        forward, decode = count(lambda: predict(unet, control, batch)), count(lambda: vae.decode(latents))
    step = count(denoising(unet, control, SIZE))
    pictures = watch.fidelity_samples * (watch.sampling_steps * 2 * forward + decode)
    validation = pictures + watch.loss_samples * 2 * forward
    for images in (4, 64):
        assert validation / (every * images * step) <= 0.05
    assert PRESETS["sd"].steps // every >= 20


def test_sixteen_gb_take_eight_images_at_once_by_themselves() -> None:
    training = replace(training_of(checkpointing=False), batch=8)
    planner = Planner(SD15, training, SIZE)
    assert planner.of(training.engine).needs(8) > 16 * GIB  # not as the options have it
    split = planner.split(16e9)
    assert (split.accumulate, split.engine) == (1, ("channels_last", "checkpointing"))
    assert planner.split(24e9).engine == training.engine  # and not where there is room
    assert planner.split(16e9, world=4).engine == training.engine


#: Rows of docs/training.md: card, model, --engine, images at once, GiB.
ROW = re.compile(r"\| (\d+) GB \| (SD 1.5|SD 2.1|SDXL), \d+ \| `--engine ([a-z_ ]+)` \| (\d+) \| ([\d.]+) \|")
ROWS = ROW.findall((Path(__file__).parents[2] / "docs" / "training.md").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(("card", "name", "engine", "images", "gib"), ROWS)
def test_documented_commands_fit_their_cards(card: str, name: str, engine: str, images: str, gib: str) -> None:
    architecture, size = MODELS[name]
    training = training_of(checkpointing="checkpointing" in engine)
    assert set(training.engine) == set(engine.split())
    needed = plan(architecture, training, size).needs(int(images))
    assert needed < int(card) * 1e9
    assert needed / GIB == pytest.approx(float(gib), abs=0.06)


def test_every_card_has_a_documented_command() -> None:
    assert {int(row[0]) for row in ROWS} == set(CARDS)


@pytest.mark.proof
@pytest.mark.parametrize(("name", "limit"), [("SD 1.5", 6), ("SD 2.1", 12), ("SDXL", 24)])
def test_every_model_encodes_and_its_plan_agrees_with_the_measured_peak(name: str, limit: int) -> None:
    architecture, size = MODELS[name]
    encoding = measure_encode(architecture, 4, size)
    assert encoding.peak + encoding.weights < limit * GIB
    training = training_of(checkpointing=True)
    estimate = plan(architecture, training, size)
    for images in (4, 16):
        peak = measure_forward(architecture, training, images, size).peak
        assert estimate.fixed + images * estimate.per_image == pytest.approx(peak, rel=0.1)
