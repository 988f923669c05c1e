from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pipeline.io import CnlabError, read_json
from trainer import run as run_module
from trainer.checkpoint import list_checkpoints, load_tensors
from trainer.config import TrainConfig
from trainer.data import Order
from trainer.run import run_training


@pytest.fixture
def config(model_folder: Path, dataset: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        dataset=dataset, model=str(model_folder), out=tmp_path, name="run", steps=7, batch=3, lr=1e-3, warmup=2,
        schedule="cosine", hint=(8, 8, 8, 8), log_every=1, save_every=2, validate_every=3, validation_samples=4,
        sample_every=4, samples=2, device="cpu",
    )  # fmt: skip


def losses(folder: Path) -> list[tuple[int, float, float]]:
    rows = [json.loads(s) for s in (folder / "log.jsonl").read_text().splitlines()]
    return [(r["step"], r["loss"], r["grad_norm"]) for r in rows]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_tensors(list_checkpoints(folder / "checkpoints")[-1] / "diffusion_pytorch_model.safetensors")


def same(a: Path, b: Path) -> bool:
    left, right = weights(a), weights(b)
    return losses(a) == losses(b) and all(torch.equal(v, right[k]) for k, v in left.items())


def test_a_run_leaves_what_the_contract_says(config: TrainConfig) -> None:
    folder = run_training(config)
    assert [s for s, _, _ in losses(folder)] == list(range(1, 8))
    assert [p.name for p in list_checkpoints(folder / "checkpoints")] == ["step-0000006", "step-0000007"]
    rows = pd.read_parquet(folder / "validation.parquet")
    assert list(rows["step"].unique()) == [0, 3, 6, 7]
    start = rows[rows["step"] == 0].set_index("arm")["loss"]
    assert start["true"] == start["none"] == start["shuffled"]
    with Image.open(folder / "samples" / "step-0000004.png") as grid:
        assert grid.size[1] > 3 * 64
    summary = read_json(folder / "summary.json")
    assert summary["step"] == 7
    assert (folder / summary["checkpoint"] / "config.json").exists()
    assert list((folder / "tensorboard").iterdir())
    stamp = (folder / "summary.json").stat().st_mtime_ns
    run_training(config)
    assert (folder / "summary.json").stat().st_mtime_ns == stamp


def test_two_runs_with_one_seed_are_bit_equal_and_another_seed_differs(config: TrainConfig) -> None:
    first, second, third = (
        run_training(replace(config, name=n, seed=s, sample_every=0)) for n, s in (("a", 0), ("b", 0), ("c", 1))
    )
    assert same(first, second)
    assert losses(first) != losses(third)


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5, 6])
def test_stopped_anywhere_and_resumed_is_bit_equal(
    config: TrainConfig, stop: int, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = replace(config, sample_every=0)
    whole = run_training(replace(config, out=tmp_path_factory.mktemp("whole")))
    real = run_module.Recorder.log

    def interrupted(self: run_module.Recorder, step: int, figures: dict[str, float]) -> None:
        real(self, step, figures)
        if step == stop:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_module.Recorder, "log", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_training(config)
    assert not (config.folder / "summary.json").exists()
    assert same(run_training(config), whole)


@pytest.mark.slow
def test_sigkill_then_the_same_command_is_bit_equal(
    config: TrainConfig, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = replace(config, sample_every=0, steps=40, save_every=5)
    whole = run_training(replace(config, out=tmp_path_factory.mktemp("whole")))
    code = (
        "import torch; torch.set_num_threads(1)\nfrom pathlib import Path, PosixPath\n"
        f"from trainer.config import TrainConfig\nfrom trainer.run import run_training\nrun_training({config!r})"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list_checkpoints(config.folder / "checkpoints") and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (config.folder / "summary.json").exists()
    assert same(run_training(config), whole)


def test_a_foreign_config_is_refused(config: TrainConfig) -> None:
    run_training(replace(config, steps=1, sample_every=0))
    with pytest.raises(CnlabError, match="another configuration"):
        run_training(replace(config, steps=2, sample_every=0))


def test_a_subset_is_the_first_rows(config: TrainConfig) -> None:
    folder = run_training(replace(config, subset="5", steps=1, sample_every=0))
    assert read_json(folder / "summary.json")["subset_size"] == 5
    with pytest.raises(CnlabError, match="were asked for"):
        run_training(replace(config, subset="5k", name="more", steps=1))


def test_a_step_with_infinite_gradient_is_skipped_and_recorded(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    import trainer.loop as loop

    real = loop.make_batch

    def poisoned(prior, items, generator, empty, drop):  # type: ignore[no-untyped-def]
        batch, target = real(prior, items, generator, empty, drop)
        poison = generator.initial_seed() == loop.step_generator(config.seed, 3).initial_seed()
        return batch, target * (float("nan") if poison else 1.0)

    monkeypatch.setattr(loop, "make_batch", poisoned)
    folder = run_training(replace(config, sample_every=0))
    rows = {step: norm for step, _, norm in losses(folder)}
    assert np.isnan(rows[4])
    assert all(torch.isfinite(v).all() for v in weights(folder).values())


def test_our_checkpoint_works_in_the_public_pipeline(config: TrainConfig, model_folder: Path) -> None:
    folder = run_training(replace(config, steps=1, sample_every=0))
    place = folder / read_json(folder / "summary.json")["checkpoint"]
    code = f"""
import sys
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from PIL import Image
control = ControlNetModel.from_pretrained({str(place)!r})
pipe = StableDiffusionControlNetPipeline.from_pretrained({str(model_folder)!r}, controlnet=control, safety_checker=None)
image = pipe("a red cube", image=Image.new("RGB", (64, 64)), num_inference_steps=2).images[0]
assert image.size == (64, 64)
assert not {{"pipeline", "trainer", "evaluation"}} & set(sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("start", range(7))
def test_order_goes_on_from_any_step(start: int) -> None:
    whole = list(Order(10, 4, 1, 0, 7))
    assert list(Order(10, 4, 1, start, 7)) == whole[start:]
    assert sorted(i for b in whole[:5] for i in b) == sorted([*range(10)] * 2)
    assert list(Order(10, 4, 2, 0, 7)) != whole
