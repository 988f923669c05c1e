"""``--extend``: with the run's own options, and nothing that is asked for is passed over."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_runs import small_run

from pipeline.contract.errors import CnlabError
from trainer.config import (
    BaseOptions,
    DataOptions,
    OptimizerOptions,
    Save,
    TrainConfig,
    WatchOptions,
)
from trainer.run import run_training
from trainer.run_folder import log_lines
from trainer.state import trained
from trainer.state.extend import extended


@pytest.fixture
def config(model_folder: Path, dataset: Path, tmp_path: Path) -> TrainConfig:
    return small_run(model_folder, dataset, tmp_path, steps=2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lr": 1e-4}, r"--lr 0.001\), --lr 0.0001 would be another run"),
        ({"seed": 3}, r"--seed 0\), --seed 3"),
        ({"subset": "4"}, r"--subset None\), --subset 4"),
        ({"variant": "lora"}, "--variant lora"),
        ({"precision": "tf32"}, "--precision tf32"),
        ({"flip": True}, "--flip True"),
        ({"init": "x/y"}, "--init x/y"),
        ({"name": "other"}, "--name other"),
        ({"out": Path("elsewhere")}, "--out .*elsewhere"),
        ({"model": "a/b"}, "--model a/b"),
        ({"base": BaseOptions(vae="x")}, "--vae x"),
        ({"data": DataOptions(captions="random")}, "--captions random"),
        ({"optimizer": OptimizerOptions(ema=0.9)}, r"--optimizer.ema 0.9"),
        ({"watch": WatchOptions(loss_samples=2)}, r"--watch.loss-samples 2"),
    ],
)
def test_what_would_make_another_run_is_refused(config: TrainConfig, options: dict[str, Any], said: str) -> None:
    folder = run_training(config)
    with pytest.raises(CnlabError, match=said):
        run_training(TrainConfig(extend=folder, steps=4, **options))
    assert len(log_lines(folder)) == 2


def test_what_may_change_is_taken_and_the_same_may_be_said_again(config: TrainConfig) -> None:
    folder = run_training(config)
    asked = extended(
        replace(config, extend=folder, steps=4, accumulate=2, validate_every=1, save=Save(keep=3),
                watch=replace(config.watch, early_stop=7, grid=1))
    )  # fmt: skip
    assert (asked.accumulate, asked.validate_every, asked.save.keep) == (2, 1, 3)
    assert (asked.watch.early_stop, asked.watch.grid, asked.watch.loss_samples) == (7, 1, 4)
    assert (asked.steps, asked.lr, asked.hint.channels, asked.folder) == (4, 1e-3, (8, 8, 8, 8), folder)


def test_an_extension_that_was_cut_off_goes_on_by_the_same_command(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run_training(config)
    extend = TrainConfig(extend=folder, steps=6)
    save = trained.Trained.save

    def killed(self: trained.Trained, root: Path, step: int, count: int = 2) -> None:
        save(self, root, step, count)
        if step == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trained.Trained, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            run_training(extend)
    run_training(extend)
    assert [line["step"] for line in log_lines(folder)] == [1, 2, 3, 4, 5, 6]
    assert run_training(extend) == folder  # complete
    with pytest.raises(CnlabError, match="it has 6 steps; give more"):
        run_training(TrainConfig(extend=folder, steps=5))
