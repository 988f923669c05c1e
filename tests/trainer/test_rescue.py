"""Runs that ran out of memory, are extended, or were begun by an older commit."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from small_runs import small_run

from pipeline.contract.dataset import Triplets
from pipeline.contract.errors import CnlabError
from pipeline.contract.files import read_json
from trainer import cli
from trainer.config import HintOptions, OptimizerOptions, Save, TrainConfig, WatchOptions
from trainer.memory import architecture_of
from trainer.plan import _sample_bytes, step_advice, validation_advice
from trainer.run import run_training
from trainer.run_folder import checkpoints, feeds_signed, log_lines, open_run, read_config
from trainer.state.checkpoint import load_tensors
from trainer.watch import watcher

pytestmark = pytest.mark.slow

FIXTURE = Path(__file__).parents[1] / "fixtures" / "v084dc56"


@pytest.fixture
def config(model_folder: Path, dataset: Path, tmp_path: Path) -> TrainConfig:
    return small_run(model_folder, dataset, tmp_path, steps=6, batch=4, validate_every=3)


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in log_lines(folder)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_tensors(list(checkpoints(folder).values())[-1] / "diffusion_pytorch_model.safetensors")


OUT_OF_MEMORY = """
import sys, torch
torch.set_num_threads(1)
from pathlib import Path, PosixPath
from pipeline.contract.errors import run_cli
from trainer.config import *
from trainer.run import run_training
real, calls = torch.Tensor.backward, []
def full(self, *rest, **named):
    calls.append(1)
    if len(calls) == 3:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    return real(self, *rest, **named)
torch.Tensor.backward = full
run_cli(lambda: run_training({config!r}))
"""


def test_out_of_memory_is_one_line_and_the_run_goes_on_in_smaller_parts(config: TrainConfig, tmp_path: Path) -> None:
    whole = run_training(replace(config, name="whole"))
    code = OUT_OF_MEMORY.format(config=config)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode != 0
    line = ended.stderr.strip().splitlines()[-1]
    assert "out of memory with 4 images at once; run the same command with --accumulate 2" in line
    folder = run_training(replace(config, accumulate=2))
    assert np.allclose(losses(folder), losses(whole), rtol=1e-4)
    history = read_config(folder)["history"]
    assert [entry["changed"] for entry in history] == [["accumulate"]]


def full(*rest: Any, **named: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_out_of_memory_while_encoding_is_not_laid_to_the_steps(
    config: TrainConfig, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Path(shutil.copytree(dataset, tmp_path / "data", ignore=shutil.ignore_patterns(".cache")))
    config = replace(config, dataset=data)
    with monkeypatch.context() as patch:
        patch.setattr("diffusers.AutoencoderKL.encode", full)
        with pytest.raises(CnlabError, match=r"while the train samples are encoded; .*--device cpu") as caught:
            run_training(config)
    assert "--accumulate" not in str(caught.value)
    assert not (tmp_path / "run").exists()
    run_training(config)


def test_out_of_memory_in_a_validation_names_what_helps_there(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("trainer.watch.watcher.held_out_loss", full)
        with pytest.raises(CnlabError, match=r"validation at step 0; run the same command with --engine .*text_cache"):
            run_training(config)
        cached = replace(config, engine=("text_cache",), watch=replace(config.watch, fidelity_samples=2))
        with pytest.raises(CnlabError, match=r"step 0; run it with --watch\.fidelity-samples 0"):
            run_training(cached)
    assert not (config.out / "run").exists()
    losses_at, calls = watcher.held_out_loss, []

    def later(*rest: Any, **named: Any) -> Any:
        calls.append(1)
        return losses_at(*rest, **named) if len(calls) == 1 else full()

    with monkeypatch.context() as patch:
        patch.setattr("trainer.watch.watcher.held_out_loss", later)
        with pytest.raises(CnlabError, match="step 3; run the same command with --engine channels_last text_cache"):
            run_training(config)
    assert run_training(replace(config, engine=("channels_last", "text_cache"))).name == "run"
    assert validation_advice(cached.resolved(), begun=True).startswith("train anew under another --name with --watch")


@pytest.mark.parametrize(
    ("batch", "world", "options", "advice"),
    [
        (6, 1, {"accumulate": 2}, "--accumulate 6"),
        (12, 1, {"accumulate": 3}, "--accumulate 6"),
        (12, 2, {"accumulate": 2}, "--accumulate 6"),
        (9, 1, {}, "--accumulate 3"),
        (4, 4, {"engine": ("compile",)}, "--engine compile checkpointing"),
        (4, 1, {"accumulate": 4, "engine": ("checkpointing",)}, "--engine checkpointing text_cache"),
    ],
)
def test_advice_after_out_of_memory_is_taken(
    config: TrainConfig, batch: int, world: int, options: dict[str, Any], advice: str
) -> None:
    config = replace(config, batch=batch, **options)
    assert step_advice(config.resolved(), world) == advice
    option, *values = advice.split()
    changed = {"accumulate": int(values[0])} if option == "--accumulate" else {"engine": tuple(values)}
    assert batch % (replace(config, **changed).resolved().accumulate * world) == 0


def test_what_does_not_change_the_result_may_change_and_is_recorded(config: TrainConfig) -> None:
    run_training(replace(config, steps=6))
    (config.out / "run" / "summary.json").unlink()
    run_training(replace(config, validate_every=2, save_every=1, save=Save(keep=3), engine=()))
    (entry,) = read_config(config.out / "run")["history"]
    assert set(entry["changed"]) == {"validate_every", "save_every", "save.keep", "engine"}
    assert entry["step"] == 6


def test_six_steps_extended_to_twelve_are_twelve(config: TrainConfig) -> None:
    whole = run_training(replace(config, name="whole", steps=12))
    folder = run_training(config)
    extended = run_training(TrainConfig(extend=folder, steps=12))
    assert extended == folder
    assert losses(folder) == losses(whole)
    left, right = weights(folder), weights(whole)
    assert all(torch.equal(value, right[name]) for name, value in left.items())
    tables = [pd.read_parquet(place / "validation.parquet") for place in (folder, whole)]
    assert tables[0].equals(tables[1])
    assert read_json(folder / "summary.json")["step"] == 12
    assert read_config(folder)["fingerprint"] == read_config(whole)["fingerprint"]


def test_what_cannot_be_extended_says_why(config: TrainConfig, tmp_path: Path) -> None:
    folder = run_training(replace(config, steps=2))
    with pytest.raises(CnlabError, match="it has 2 steps; give more"):
        run_training(TrainConfig(extend=folder))
    with pytest.raises(CnlabError, match=rf"differs in steps\).*--extend {folder} --steps 4"):
        run_training(replace(config, steps=4))
    with pytest.raises(CnlabError, match="no run in that folder"):
        run_training(TrainConfig(extend=tmp_path / "none", steps=4))
    decaying = replace(config, name="cosine", steps=2, optimizer=OptimizerOptions(warmup=1, schedule="cosine"))
    with pytest.raises(CnlabError, match="its rate decays to the end of its 2 steps"):
        run_training(TrainConfig(extend=run_training(decaying), steps=4))


def test_another_order_is_another_run_on_other_samples(config: TrainConfig) -> None:
    first = run_training(replace(config, name="", subset="4", steps=2))
    other = run_training(replace(config, name="", subset="4", steps=2, order_seed=1))
    assert first != other
    assert losses(first) != losses(other)
    assert read_json(other / "summary.json")["order_seed"] == 1


def test_checkpoints_come_by_time_too_and_as_many_stay_as_asked(config: TrainConfig) -> None:
    folder = run_training(replace(config, save_every=100, save=Save(minutes=1e-9, keep=3)))
    assert list(checkpoints(folder)) == [4, 5, 6]


def test_a_run_that_fails_before_its_first_step_leaves_no_folder(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.watch.watcher import Watcher

    def broken(self: Watcher, step: int) -> bool:
        raise CnlabError("nothing to see")

    with monkeypatch.context() as patch:
        patch.setattr(Watcher, "__call__", broken)
        with pytest.raises(CnlabError, match="nothing to see"):
            run_training(config)
    assert not (config.out / "run").exists()


@pytest.mark.parametrize(("lr", "steps"), [(1e30, 2), (1e30, 12)])
def test_a_run_that_ends_in_no_number_has_no_summary(config: TrainConfig, lr: float, steps: int) -> None:
    config = replace(
        config, lr=lr, steps=steps, watch=replace(config.watch, log_every=100), optimizer=OptimizerOptions()
    )
    with pytest.raises(CnlabError, match=r"no finite numbers"):
        run_training(config)
    assert not (config.out / "run" / "summary.json").exists()


def test_a_dry_run_resolves_like_the_run(
    config: TrainConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(config.dataset, tmp_path / "scribbles"))
    header = read_json(copy / "dataset.json")
    (copy / "dataset.json").write_text(json.dumps({**header, "conditions": ["scribble"]}))
    cli._run(replace(config, dataset=copy, dry_run=True))
    out = capsys.readouterr().out
    assert "prompt_drop=0.1" in out
    for line in ("12 GB: --accumulate 1 (4 images at once", "caches on disk", "latents", "batches that wait for a GPU"):
        assert line in out
    with pytest.raises(CnlabError, match="--flip"):
        (copy / "dataset.json").write_text(json.dumps({**header, "conditions": ["openpose"]}))
        cli._run(replace(config, dataset=copy, flip=True, dry_run=True))


def test_the_forecast_of_disk_is_what_a_run_writes(config: TrainConfig, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(config.dataset, tmp_path / "copy", ignore=shutil.ignore_patterns(".cache")))
    run_training(replace(config, dataset=copy, steps=1, engine=("text_cache",)))
    latent, text, _ = _sample_bytes(architecture_of(config.model), Triplets(copy).header["image_size"])
    sizes = {
        kind: max(f.stat().st_size for f in (copy / ".cache").glob(f"{kind}-*.f16")) for kind in ("latents", "text")
    }
    assert sizes == {"latents": latent * 8, "text": text * 8}


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What commit 084dc56 wrote, as the working directory."""
    folder = Path(shutil.copytree(FIXTURE, tmp_path / "old"))
    monkeypatch.chdir(folder)
    return folder


def test_an_old_dataset_opens_and_trains(old: Path) -> None:
    Triplets(Path("data/old")).verify()
    config = TrainConfig(
        dataset=Path("data/old"), model="models/tiny-sd", name="new", steps=2, batch=4, device="cpu",
        hint=HintOptions((4, 4, 4, 4)), watch=WatchOptions(loss_samples=4, fidelity_samples=2, sampling_steps=1),
    )  # fmt: skip
    assert len(losses(run_training(config))) == 1


def test_an_old_run_can_be_evaluated_and_not_continued(old: Path) -> None:
    run = open_run(Path("runs/old-a"))
    assert (run.checkpoint / "config.json").is_file()
    assert run.fact("step") == 3
    config = TrainConfig(
        dataset=Path("data/old"), model="models/tiny-sd", name="old-a", subset="8", steps=3, batch=4, lr=1e-3,
        validate_every=2, seed=1, device="cpu", hint=HintOptions((4, 4, 4, 4), "gaussian"),
        optimizer=OptimizerOptions(warmup=1),
        watch=WatchOptions(loss_samples=4, fidelity_samples=2, sampling_steps=2, grid=2, log_every=1),
    )  # fmt: skip
    for command in (config, TrainConfig(extend=Path("runs/old-a"), steps=6)):
        with pytest.raises(CnlabError, match=r"earlier controlnet-lab .* can be evaluated .* another --name"):
            run_training(command)


def test_older_inpaint_runs_are_fed_as_they_were_trained(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints" / "step-0000001"
    assert feeds_signed(checkpoint, "inpaint")  # anybody's ControlNet
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "summary.json").write_text("{}")
    assert not feeds_signed(checkpoint, "inpaint")
    (tmp_path / "summary.json").write_text('{"signed_hint": true}')
    assert feeds_signed(checkpoint, "inpaint")
    assert not feeds_signed(checkpoint, "canny")
