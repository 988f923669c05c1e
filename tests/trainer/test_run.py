from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pipeline.contract.errors import CnlabError
from pipeline.contract.files import read_json, write_json
from trainer import run as run_module
from trainer.config import HintOptions, OptimizerOptions, TrainConfig, WatchOptions
from trainer.data.batches import Batches, Order
from trainer.run import run_training
from trainer.state.checkpoint import list_checkpoints, load_tensors
from trainer.watch import watcher

HINT = HintOptions((8, 8, 8, 8))
OPTIMIZER = OptimizerOptions(warmup=2, schedule="cosine")
PICTURES = WatchOptions(log_every=1, loss_samples=4, fidelity_samples=3, sampling_steps=2, grid=2)
NO_PICTURES = replace(PICTURES, fidelity_samples=0)


@pytest.fixture
def config(model_folder: Path, dataset: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        dataset=dataset, model=str(model_folder), out=tmp_path, name="run", steps=7, batch=3, lr=1e-3, save_every=2,
        validate_every=3, device="cpu", hint=HINT, optimizer=OPTIMIZER, watch=NO_PICTURES,
    )  # fmt: skip


def losses(folder: Path) -> list[tuple[int, float, float]]:
    rows = [json.loads(s) for s in (folder / "log.jsonl").read_text().splitlines()]
    return [(r["step"], r["loss"], r["grad_norm"]) for r in rows]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_tensors(list_checkpoints(folder / "checkpoints")[-1] / "diffusion_pytorch_model.safetensors")


def same(a: Path, b: Path) -> bool:
    left, right = weights(a), weights(b)
    tables = [pd.read_parquet(folder / "validation.parquet") for folder in (a, b)]
    return (
        losses(a) == losses(b)
        and all(torch.equal(v, right[k]) for k, v in left.items())
        and tables[0].equals(tables[1])
    )


def test_a_run_leaves_what_the_contract_says(config: TrainConfig) -> None:
    config = replace(config, watch=PICTURES)
    folder = run_training(config)
    assert [s for s, _, _ in losses(folder)] == list(range(1, 8))
    assert [p.name for p in list_checkpoints(folder / "checkpoints")] == ["step-0000006", "step-0000007"]
    rows = pd.read_parquet(folder / "validation.parquet")
    assert list(rows["step"].unique()) == [0, 3, 6, 7]
    start = rows[(rows["step"] == 0) & (rows["metric"] == "loss")].set_index("arm")["value"]
    assert start["true"] == start["none"] == start["shuffled"]
    assert start["gap"] == 0
    fidelity = rows[rows["metric"] == "fidelity"]
    assert set(fidelity["arm"]) == {"true", "shuffled", "gap"}
    assert set(fidelity["n"]) == {3}
    assert (rows["ci_low"] <= rows["value"]).all()
    with Image.open(folder / "samples" / "step-0000003.png") as grid:
        assert grid.size == (2 * 66 + 2, 3 * 64 + 46 + 4)
    summary = read_json(folder / "summary.json")
    assert (summary["step"], summary["images"]) == (7, 21)
    assert (folder / summary["checkpoint"] / "config.json").exists()
    assert list((folder / "tensorboard").iterdir())
    assert read_json(folder / "convergence.json")["converged"] is False
    record = read_json(folder / "config.json")["config"]
    assert record["prompt_drop"] == 0.5  # what was left open is written as it was decided
    assert record["watch"]["guidance"] == 7.5
    stamp = (folder / "summary.json").stat().st_mtime_ns
    run_training(config)
    assert (folder / "summary.json").stat().st_mtime_ns == stamp


def test_two_runs_with_one_seed_are_bit_equal_and_another_seed_differs(config: TrainConfig) -> None:
    first, second, third = (run_training(replace(config, name=n, seed=s)) for n, s in (("a", 0), ("b", 0), ("c", 1)))
    assert same(first, second)
    assert losses(first) != losses(third)


def interrupt(monkeypatch: pytest.MonkeyPatch, config: TrainConfig, stop: int) -> None:
    """Run until the line of step ``stop`` is logged."""
    real = run_module.Recorder.log

    def interrupted(self: run_module.Recorder, step: int, figures: dict[str, float]) -> None:
        real(self, step, figures)
        if step == stop:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_module.Recorder, "log", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_training(config)
    assert not (config.resolved().folder / "summary.json").exists()


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5, 6])  # an epoch has 8 samples, so every step of two epochs
@pytest.mark.slow
def test_stopped_anywhere_and_resumed_is_bit_equal(
    config: TrainConfig, stop: int, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = run_training(replace(config, out=tmp_path_factory.mktemp("whole")))
    interrupt(monkeypatch, config, stop)
    assert same(run_training(config), whole)


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": replace(OPTIMIZER, ema=0.5, min_snr=5.0)},
        {"variant": "lite", "accumulate": 3},
        {"unlock_decoder": True},
        {"flip": True, "engine": ("text_cache",), "precision": "bf16"},
    ],
    ids=["ema", "lite", "unlocked", "cached"],
)
@pytest.mark.slow
def test_every_kind_of_run_resumes_bit_equal(
    config: TrainConfig,
    options: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    config = replace(config, **options)  # type: ignore[arg-type]
    whole = run_training(replace(config, out=tmp_path_factory.mktemp("whole")))
    interrupt(monkeypatch, config, 5)
    assert same(run_training(config), whole)


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
@pytest.mark.slow
def test_every_precision_learns_the_same_to_its_own_accuracy(config: TrainConfig, precision: str) -> None:
    config = replace(config, lr=1e-4, steps=4)
    full = run_training(config)
    other = run_training(replace(config, name=precision, precision=precision))  # type: ignore[arg-type]
    assert np.allclose([v for _, v, _ in losses(other)], [v for _, v, _ in losses(full)], rtol=2e-2)
    state = read_json(list_checkpoints(other / "checkpoints")[-1] / "state.json")
    assert state["scaler"]["scale"] == (2.0**16 if precision == "fp16" else 1.0)
    assert all(v.dtype == torch.float32 for v in weights(other).values())


@pytest.mark.filterwarnings(
    "ignore:.*torch.jit.script_method.*:DeprecationWarning"
)  # torch, importing its own compiler
@pytest.mark.slow
def test_checkpointing_and_compiling_compute_the_same(config: TrainConfig) -> None:
    config = replace(config, steps=3)
    plain = run_training(config)
    spared = run_training(replace(config, name="spared", engine=("channels_last", "checkpointing")))
    assert np.allclose([v for _, v, _ in losses(spared)], [v for _, v, _ in losses(plain)], rtol=1e-5)
    with torch.compiler.set_stance("force_eager"):  # generating code takes minutes on a CPU
        compiled = run_training(replace(config, name="compiled", engine=("channels_last", "compile")))
    assert losses(compiled) == losses(plain)


def child(config: TrainConfig) -> subprocess.Popen[bytes]:
    code = (
        "import torch; torch.set_num_threads(1)\nfrom pathlib import Path, PosixPath\n"
        f"from trainer.config import *\nfrom trainer.run import run_training\nrun_training({config!r})"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_sigkill_then_the_same_command_is_bit_equal(
    config: TrainConfig, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = replace(config, steps=40, save_every=5)
    whole = run_training(replace(config, out=tmp_path_factory.mktemp("whole")))
    running = child(config)
    deadline = time.monotonic() + 120
    while not list_checkpoints(config.resolved().folder / "checkpoints") and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(running.pid, signal.SIGKILL)
    running.communicate()
    assert not (config.resolved().folder / "summary.json").exists()
    assert same(run_training(config), whole)


def test_a_foreign_config_is_refused_and_told_what_differs(config: TrainConfig) -> None:
    run_training(replace(config, steps=1))
    with pytest.raises(CnlabError, match=r"another configuration \(it differs in steps\)"):
        run_training(replace(config, steps=2))
    with pytest.raises(CnlabError, match=r"differs in optimizer.clip"):
        run_training(replace(config, steps=1, optimizer=replace(OPTIMIZER, clip=0.5)))


def test_a_changed_dataset_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(config.dataset, copy)
    config = replace(config, dataset=copy, steps=1)
    run_training(config)
    header = read_json(copy / "dataset.json")
    write_json(copy / "dataset.json", {**header, "fingerprint": "another"})
    with pytest.raises(CnlabError, match="differs in dataset"):
        run_training(config)
    shard = copy / header["shards"][0]["file"]
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(CnlabError, match=rf"{shard.name} is missing or damaged"):
        run_training(replace(config, name="other"))


def test_two_trainers_in_one_folder_the_second_refuses(config: TrainConfig) -> None:
    from pipeline.contract.files import lock_folder

    with lock_folder(config.resolved().folder), pytest.raises(CnlabError, match="in use by another process"):
        run_training(config)


def test_a_subset_is_the_first_rows(config: TrainConfig) -> None:
    folder = run_training(replace(config, subset="5", steps=1))
    assert read_json(folder / "summary.json")["subset_size"] == 5
    with pytest.raises(CnlabError, match="were asked for"):
        run_training(replace(config, subset="5k", name="more", steps=1))


def test_a_step_with_a_gradient_that_is_no_number_is_skipped_and_counted(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Batches.__getitem__

    def poisoned(self: Batches, step: int):  # type: ignore[no-untyped-def]
        parts = real(self, step)
        if step in poison:
            parts[0]["noise"] = parts[0]["noise"] * float("nan")
        return parts

    monkeypatch.setattr(Batches, "__getitem__", poisoned)
    poison = {3}
    folder = run_training(config)
    rows = [json.loads(s) for s in (folder / "log.jsonl").read_text().splitlines()]
    assert [r["skipped"] for r in rows] == [0, 0, 0, 1, 1, 1, 1]
    assert rows[3]["loss"] is None
    assert all(r["loss"] is not None for r in rows if r["step"] != 4)
    assert all(torch.isfinite(v).all() for v in weights(folder).values())
    poison = set(range(2, 7))
    with pytest.raises(CnlabError, match="the loss is no number"):
        run_training(replace(config, name="hopeless"))


def test_early_stop_ends_the_run_after_two_verdicts_and_is_found_complete(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    def at_three(table: pd.DataFrame) -> SimpleNamespace:
        there = bool((table["step"] >= 3).any())
        return SimpleNamespace(converged=there, step=3 if there else None, as_dict=lambda: {"converged": there})

    for module in (run_module, watcher):
        monkeypatch.setattr(module, "convergence_of", at_three)
    config = replace(config, steps=30, watch=replace(NO_PICTURES, early_stop=1))
    folder = run_training(config)
    assert read_json(folder / "summary.json")["step"] == 6  # at 3 it is said for the first time, at 6 for the second
    (folder / "summary.json").unlink()  # as if killed before it was written
    assert read_json(run_training(config) / "summary.json")["step"] == 6


def test_captions_that_the_text_encoder_cuts_are_announced_and_stored(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(shutil.copytree(config.model, tmp_path / "model"))
    settings = model / "tokenizer" / "tokenizer_config.json"
    settings.write_text(json.dumps({**read_json(settings), "model_max_length": 6}))
    folder = run_training(replace(config, model=str(model), steps=1))
    count = read_json(config.dataset / "dataset.json")["counts"]["train"]
    assert f"note: {count} of {count} captions are longer than the 6 tokens" in capsys.readouterr().out
    assert read_json(folder / "summary.json")["captions_cut"] == count


def test_the_floor_of_a_net_that_does_not_start_as_the_prior(config: TrainConfig) -> None:
    plain, other = (
        pd.read_parquet(
            run_training(replace(config, name=v, variant=v, steps=1, watch=PICTURES)) / "validation.parquet"
        )  # type: ignore[arg-type]
        for v in ("controlnet", "gaussian")
    )
    floor = other[other["arm"] == "floor"]
    assert list(floor["step"]) == [0]
    start = plain[(plain["metric"] == "fidelity") & (plain["arm"] == "gap") & (plain["step"] == 0)]
    assert floor["value"].iloc[0] == start["value"].iloc[0]  # the prior's own pictures
    assert "floor" not in set(plain["arm"])


@pytest.mark.slow
def test_our_checkpoint_works_in_the_public_pipeline(config: TrainConfig, model_folder: Path) -> None:
    folder = run_training(replace(config, steps=1))
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


def test_learning_rate_of_an_unlocked_decoder_is_a_fifth(config: TrainConfig) -> None:
    assert replace(config, lr=None).resolved().lr == 1e-5
    assert replace(config, lr=None, unlock_decoder=True).resolved().lr == pytest.approx(2e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch": 3, "accumulate": 2}, "equal micro-batches"),
        ({"optimizer": OptimizerOptions(ema=1.0)}, "must lie in"),
        ({"optimizer": OptimizerOptions(schedule="linear")}, "constant or cosine"),  # type: ignore[arg-type]
        ({"optimizer": OptimizerOptions(clip=-1.0)}, "--optimizer.clip must be at least 0"),
        ({"optimizer": OptimizerOptions(weight_decay=float("nan"))}, "--optimizer.weight-decay nan is no finite"),
        ({"hint": HintOptions(())}, "--hint.channels"),
        ({"watch": WatchOptions(fidelity_samples=1)}, "0 or at least 2"),
        ({"lr": float("inf")}, "--lr inf is no finite number"),
        ({"lr": -1.0}, "--lr -1.0 must be above 0"),
        ({"seed": -1}, "--seed must be at least 0"),
        ({"prompt_drop": float("nan")}, "--prompt-drop nan is no finite number"),
        ({"variant": "lite", "init": "x"}, "starts a copy of the encoder"),
        ({"prompt_drop": 2.0}, "must lie in"),
        ({"steps": 0}, "--steps must be at least 1"),
        ({"lora_rank": 4}, "--lora-rank is of --variant lora"),
    ],
)
def test_bad_options_get_one_line(config: TrainConfig, options: dict[str, object], said: str) -> None:
    with pytest.raises(CnlabError, match=said):
        replace(config, **options).resolved()  # type: ignore[arg-type]


def test_at_most_25_options() -> None:
    options = fields(TrainConfig)
    groups = [f for f in options if is_dataclass(f.default_factory)]
    assert len(options) - len(groups) <= 25
    assert all(len(fields(f.default_factory)) <= 12 for f in groups)  # type: ignore[arg-type]


def test_prompts_are_dropped_by_condition(config: TrainConfig) -> None:
    assert config.resolved("canny").prompt_drop == 0.5
    assert config.resolved("scribble").prompt_drop == 0.1
    assert replace(config, prompt_drop=0.2).resolved("scribble").prompt_drop == 0.2
    assert np.isclose(config.resolved().lr, 1e-3)
