"""Runs whose files were lost or damaged, and disks that are full: one line that says what helps, and it does."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors import SafetensorError
from small_runs import small_run

from pipeline.contract.errors import CnlabError, run_cli
from pipeline.contract.files import atomic, read_json
from trainer.config import TrainConfig
from trainer.convergence.verdict import VerdictConfig, verdict
from trainer.exchange.export import ExportConfig, export
from trainer.run import run_training
from trainer.run_folder import checkpoints
from trainer.state.checkpoint import load_tensors

WEIGHTS = "diffusion_pytorch_model.safetensors"


FULL = """
import resource, signal, torch
from pathlib import Path
from pipeline.contract.errors import run_cli
from trainer.state.checkpoint import save_checkpoint, save_tensors
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def save(step, count):
    save_checkpoint(
        Path({root!r}), step, lambda folder: save_tensors({{"a": torch.zeros(count)}}, folder / {weights!r}), {{}}
    )
save(1, 1000)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
run_cli(lambda: save(2, 100_000))
"""


@pytest.fixture
def config(model_folder: Path, dataset: Path, tmp_path: Path) -> TrainConfig:
    return small_run(model_folder, dataset, tmp_path, steps=4)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_tensors(list(checkpoints(folder).values())[-1] / WEIGHTS)


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, right[name]) for name, value in left.items())


@pytest.mark.parametrize("text", ['{"a": ', "[]", "{}", '{"identity": {"version": 2}}', None])
def test_a_damaged_configuration_says_how_to_save_what_was_trained(config: TrainConfig, text: str | None) -> None:
    folder = run_training(config)
    trained = weights(folder)
    if text is None:
        (folder / "config.json").unlink()
    else:
        (folder / "config.json").write_text(text)
    newest = checkpoints(folder)[4]
    with pytest.raises(CnlabError, match=rf"config.json is damaged .*cnlab-train export --run {newest} --out"):
        run_training(config)
    with pytest.raises(CnlabError, match=r"config.json is damaged|no run in that folder"):
        run_training(TrainConfig(extend=folder, steps=6))
    assert same(load_tensors(export(ExportConfig(newest, config.out / "saved")) / WEIGHTS), trained)


@pytest.mark.parametrize("loss", ["summary", "all checkpoints", "newest state", "newest fields"])
def test_what_can_be_made_again_is(config: TrainConfig, loss: str) -> None:
    folder = run_training(config)
    trained, newest = weights(folder), checkpoints(folder)[4]
    if loss == "summary":
        (folder / "summary.json").write_text("{")
    elif loss == "all checkpoints":
        shutil.rmtree(folder / "checkpoints")
    else:
        (folder / "summary.json").unlink()
        (newest / "state.json").write_text("{" if loss == "newest state" else '{"step": 4}')
        with pytest.raises(CnlabError, match=rf"state.json is damaged; delete {newest} to fall back"):
            run_training(config)
        shutil.rmtree(newest)
    run_training(config)
    assert same(weights(folder), trained)
    assert read_json(folder / "summary.json")["step"] == 4


@pytest.mark.parametrize("newest_stays", [True, False])
def test_lost_validations_do_not_end_a_run(config: TrainConfig, newest_stays: bool) -> None:
    folder = run_training(config)
    (folder / "summary.json").unlink()
    if not newest_stays:
        shutil.rmtree(checkpoints(folder)[4])
    (folder / "validation.parquet").write_bytes(b"PAR1 and no more")
    for command in (lambda: run_training(config), lambda: verdict(VerdictConfig((folder,)))):
        with pytest.raises(CnlabError, match=r"validation.parquet is damaged .* delete it"):
            command()
    (folder / "validation.parquet").unlink()
    run_training(config)
    steps = set(pd.read_parquet(folder / "validation.parquet")["step"])
    assert steps == ({4} if newest_stays else {2, 4})


def test_early_stop_waits_where_there_is_nothing_before(config: TrainConfig) -> None:
    folder = run_training(replace(config, watch=replace(config.watch, early_stop=100)))
    assert read_json(folder / "summary.json")["step"] == 4


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    """safetensors raises an error of its own there; a bound on the size of files stands for the end of the disk."""
    code = FULL.format(root=str(tmp_path), weights=WEIGHTS)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 2
    assert re.fullmatch(r"error: File too large: .*step-0000002\n", ended.stderr)
    assert list(tmp_path.iterdir()) == [tmp_path / "step-0000001"]


@pytest.mark.parametrize(("number", "way_out"), [(errno.ENOSPC, "free some space there and run the same"), (13, "")])
def test_what_a_library_says_of_a_disk_in_its_text_alone(
    number: int, way_out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def write() -> None:
        with atomic(tmp_path / "x"):
            raise SafetensorError(f"Error while serializing: I/O error: whatever (os error {number})")

    with pytest.raises(SystemExit, match="2"):
        run_cli(write)
    line = capsys.readouterr().err
    assert line.startswith(f"error: {os.strerror(number)}: {tmp_path / 'x'}")
    assert way_out in line


def test_a_name_stays_below_the_folder_of_runs(config: TrainConfig) -> None:
    for name in ("/", ".", "..", "../run", "a/../../b", str(config.out / "elsewhere")):
        with pytest.raises(CnlabError, match="must be the name of a folder below --out"):
            run_training(replace(config, name=name))
    assert list(config.out.iterdir()) == []


def test_a_header_without_its_fields_is_named(config: TrainConfig, tmp_path: Path) -> None:
    data = Path(shutil.copytree(config.dataset, tmp_path / "data"))
    for header in ({}, [], {"fingerprint": "x", "conditions": []}):
        (data / "dataset.json").write_text(json.dumps(header))
        with pytest.raises(CnlabError, match=r"dataset.json is damaged .*build the dataset again"):
            run_training(replace(config, dataset=data))
