"""Two CPU processes over gloo, as torchrun starts them, compute what one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small_runs import small_run

from pipeline.contract.errors import CnlabError
from pipeline.contract.files import read_json
from trainer.config import TrainConfig
from trainer.parallel import Ranks, launched
from trainer.run import run_training
from trainer.state.checkpoint import list_checkpoints, load_tensors

FLAGS = [
    "--hint.channels", "8", "8", "8", "8", "--watch.log-every", "1", "--watch.loss-samples", "4",
    "--watch.fidelity-samples", "0", "--optimizer.warmup", "2",
]  # fmt: skip


@pytest.fixture
def config(model_folder: Path, dataset: Path, tmp_path: Path) -> TrainConfig:
    return small_run(
        model_folder, dataset, tmp_path, name="one", steps=8, batch=4, lr=1e-4, save_every=3, validate_every=4
    )


def curve(folder: Path) -> np.ndarray:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return np.array([[r["step"], r["images"], r["loss"]] for r in rows])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_tensors(list_checkpoints(folder / "checkpoints")[-1] / "diffusion_pytorch_model.safetensors")


def launch(config: TrainConfig, ranks: int) -> subprocess.CompletedProcess[str]:
    options = {"dataset": config.dataset, "model": config.model, "out": config.out, "name": config.name,
               "steps": config.steps, "batch": config.batch, "lr": config.lr, "accumulate": config.accumulate or 1,
               "save-every": config.save_every, "validate-every": config.validate_every, "device": "cpu"}  # fmt: skip
    flags = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    code = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return subprocess.run(
        [*code, "-m", "trainer.cli", "run", *flags, *FLAGS],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_two_ranks_compute_what_one_does_and_resume(config: TrainConfig) -> None:
    one = run_training(config)
    two = replace(config, name="two", steps=8)
    ended = launch(two, 2)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert np.allclose(curve(two.resolved().folder), curve(one), rtol=1e-4)
    theirs = weights(two.resolved().folder)
    assert all(torch.allclose(v, theirs[k], atol=2e-5) for k, v in weights(one).items())
    tables = [pd.read_parquet(folder / "validation.parquet") for folder in (one, two.resolved().folder)]
    losses = [table.loc[table["arm"] != "gap", "value"] for table in tables]  # a gap near zero has no relative accuracy
    assert len(losses[0]) == 9
    assert np.allclose(*losses, rtol=1e-4)
    assert np.allclose(tables[0]["value"], tables[1]["value"], atol=2e-4)
    again = launch(two, 2)
    assert "is complete" in again.stdout
    assert again.stdout.count("is complete") == 1  # only one rank speaks


@pytest.mark.parametrize("accumulate", [2, 4])
@pytest.mark.slow
def test_micro_batches_compute_what_a_whole_batch_does(config: TrainConfig, accumulate: int) -> None:
    one = run_training(config)
    split = run_training(replace(config, name="split", accumulate=accumulate))
    assert np.allclose(curve(split), curve(one), rtol=1e-4)
    assert read_json(split / "summary.json")["images"] == 32


def test_a_plain_start_is_one_rank_on_the_cpu() -> None:
    with launched("cpu") as (ranks, device):
        assert ranks == Ranks(0, 1)
        assert device.type == "cpu"
    with pytest.raises(CnlabError, match="must be auto, cpu or cuda"), launched("tpu"):
        pass
    if not torch.cuda.is_available():
        with pytest.raises(CnlabError, match="torch sees none"), launched("cuda"):
            pass


def test_a_batch_that_cannot_be_shared_is_refused(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    import contextlib

    from trainer import run

    monkeypatch.setattr(run, "launched", lambda device: contextlib.nullcontext((Ranks(0, 3), torch.device("cpu"))))
    with pytest.raises(CnlabError, match="cannot be shared by 3 ranks x 1"):
        run_training(config)
