from __future__ import annotations

import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from fake_stage import stage

from evaluation.experiments import engine, work
from evaluation.experiments.base import Experiment
from evaluation.experiments.config import ExperimentConfig
from evaluation.experiments.engine import run_experiment
from evaluation.experiments.registry import NAMES, get_experiment
from evaluation.experiments.table import COLUMNS, read_table
from pipeline.contract.errors import CnlabError
from pipeline.contract.files import lock_folder, read_json

pytestmark = pytest.mark.slow

CALL = work._call
SUPPORT = Path(__file__).resolve().parents[2] / "support" / "fake_stage.py"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExperimentConfig:
    """Stages that take no time, in this process."""
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "log"))
    monkeypatch.setattr(work, "_call", lambda places, module, arguments, log: stage(module, arguments))
    folders = {name: tmp_path / name for name in ("data", "runs", "results", "published")}
    return ExperimentConfig("size", sizes=("2,8,32",), seeds=2, steps=(10,), images=0, **folders)  # type: ignore[arg-type]


@pytest.fixture
def processes(config: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExperimentConfig:
    """The same as processes."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{SUPPORT}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(engine, "Places", lambda *a: replace(work.Places(*a), python=str(python)))
    monkeypatch.setattr(work, "_call", CALL)
    monkeypatch.setattr(work, "POLL", 0.1)
    return config


@pytest.fixture
def size() -> Experiment:
    return get_experiment("size")


def trained(config: ExperimentConfig) -> list[str]:
    lines = (config.data.parent / "log").read_text().splitlines()
    return [line for line in lines if line.startswith("n") and "-5steps-" not in line]  # without the forecasts' probes


def test_every_cell_is_carried_out_once_and_tabled(config: ExperimentConfig, size: Experiment, capsys: Any) -> None:
    run_experiment(size, config)
    table = read_table(config.folder / "table.parquet")
    assert tuple(table.columns) == COLUMNS
    assert table["fingerprint"].nunique() == len(trained(config)) == 6
    assert not table.duplicated(["fingerprint", "scoring", "metric", "step"]).any()
    assert set(table["subset_size"]) == {2, 8, 32}
    pd.testing.assert_frame_equal(read_table(config.folder / "table.csv"), table, rtol=1e-5)
    last = table[(table.metric == "fidelity/gap") & (table.step == 10) & (table.train_seed == 1)]
    assert last.set_index("subset_size")["value"].to_dict() == pytest.approx({2: 0.26, 8: 0.385, 32: 0.4266667})
    printed = capsys.readouterr().out
    assert "6 cells to carry out 2 at once" in printed
    assert "2.00 s a step, 10.0 s a validation" in printed
    assert not list(config.runs.glob(".forecast-*"))
    assert not config.published.exists()
    page = (config.folder / "size.md").read_text()
    assert "95% of what 32 images reach at 10 steps takes" in page
    assert "no picture was scored by cnlab-eval" in page
    assert (config.folder / "size.png").stat().st_size > 5000
    names = [finding["name"] for finding in read_json(config.folder / "findings.json")["findings"]]
    assert names == ["trend_10", "enough_10"]


def test_finished_cells_are_published_at_once_and_never_trained_again(
    config: ExperimentConfig, size: Experiment, tmp_path: Path
) -> None:
    run_experiment(size, replace(config, limit=1, publish=True))
    assert len(trained(config)) == 1
    assert "**Incomplete:** 1 of 6 cells" in (config.published / "size.md").read_text()
    fresh = replace(config, runs=tmp_path / "r2", results=tmp_path / "t2", limit=0)  # a fresh clone
    run_experiment(size, fresh)
    assert len(trained(config)) == 1
    assert read_table(fresh.folder / "table.parquet")["fingerprint"].nunique() == 1
    run_experiment(size, replace(config, publish=True))
    assert len(trained(config)) == 6
    more = replace(config, seeds=3, publish=True)
    run_experiment(size, more)
    assert len(trained(config)) == 9
    assert read_table(config.published / "size.csv")["fingerprint"].nunique() == 9
    other = replace(config, model=str(SUPPORT.parent), seeds=1, limit=0)  # another prior: nothing published serves it
    (tmp_path / "t2").mkdir(exist_ok=True)
    progress = engine.open_progress(size, replace(other, model="tabletop", batch=8, results=tmp_path / "t3"))
    assert len(progress.missing) == 3
    table = (config.published / "size.csv").read_bytes()
    for changed, lost in ((replace(more, seeds=2), 3), (replace(more, batch=8), 9)):
        with pytest.raises(CnlabError, match=rf"size\.csv holds {lost} cells of another prior or of more sizes"):
            run_experiment(size, replace(changed, results=tmp_path / "t4", limit=0))
    assert (config.published / "size.csv").read_bytes() == table


def test_a_failed_cell_is_named_and_the_others_go_on(
    processes: ExperimentConfig, size: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(processes, seeds=1)
    monkeypatch.setenv("FAKE_BROKEN", "n8-10steps-s0")
    with pytest.raises(CnlabError, match=r"1 cells failed \(n8-10steps-s0: the loss is no number \(log: .*\.log\)\)"):
        run_experiment(size, config)
    assert read_table(config.folder / "table.parquet")["fingerprint"].nunique() == 2
    monkeypatch.setenv("FAKE_BROKEN", "none")
    run_experiment(size, config)
    assert sorted(set(trained(config))) == sorted(trained(config))
    assert read_table(config.folder / "table.parquet")["fingerprint"].nunique() == 3


def test_an_experiment_that_is_stopped_leaves_no_cell_training(
    processes: ExperimentConfig, size: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SECONDS", "600")

    def stopped(futures: Any) -> Any:
        deadline = time.monotonic() + 60
        while len([c for c in psutil.Process().children() if str(SUPPORT) in c.cmdline()]) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "as_completed", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(size, replace(processes, forecast=False, at_once=2))
    assert not [c for c in psutil.Process().children() if str(SUPPORT) in c.cmdline()]


def test_a_cell_that_somebody_trains_is_waited_for(processes: ExperimentConfig, size: Experiment) -> None:
    config = replace(processes, sizes=("2",), seeds=1)
    progress = engine.open_progress(size, config)
    [key, *_] = progress.cells
    folder = config.runs / f"{progress.cells[key].label}-{key[:8]}"
    with lock_folder(folder):
        thread = threading.Thread(target=run_experiment, args=(size, config))
        thread.start()
        time.sleep(1.5)
        assert not (folder / "summary.json").exists()
    thread.join(60)
    assert len(trained(config)) == 1


def test_one_process_works_on_an_experiment(config: ExperimentConfig, size: Experiment) -> None:
    with lock_folder(config.folder), pytest.raises(CnlabError, match="in use by another process"):
        run_experiment(size, config)


def test_dry_run_lists_and_leaves_nothing(config: ExperimentConfig, size: Experiment, capsys: Any) -> None:
    run_experiment(size, replace(config, dry_run=True))
    assert "size: 6 cells, 0 finished" in capsys.readouterr().out
    assert not config.results.exists()


def test_a_plan_that_was_changed_is_refused(config: ExperimentConfig, size: Experiment) -> None:
    with pytest.raises(CnlabError, match="was changed after it was frozen"):
        run_experiment(replace(size, plan=size.plan + " Or otherwise."), config)


@pytest.mark.parametrize("name", NAMES)
def test_plans_are_as_they_were_frozen(name: str) -> None:
    experiment = get_experiment(name)
    experiment.check()
    assert experiment.name == name


def test_a_cluster_gives_the_local_table(config: ExperimentConfig, size: Experiment, tmp_path: Path) -> None:
    from distributed import LocalCluster

    run_experiment(size, config)
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, resources={"GPU": 1}, dashboard_address=":0"
    ) as cluster:  # type: ignore[no-untyped-call]
        other = replace(
            config,
            runs=tmp_path / "r2",
            results=tmp_path / "t2",
            scheduler=cluster.scheduler_address,
            data=tmp_path / "d2",
        )
        run_experiment(size, other)
    assert len(trained(config)) == 12
    tables = [read_table(c.folder / "table.parquet").drop(columns="seconds") for c in (config, other)]
    pd.testing.assert_frame_equal(*tables)


def test_cells_wait_for_a_dataset_that_another_one_builds(
    processes: ExperimentConfig, size: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The builder's progress lines in the shared log are no reason to give up."""
    monkeypatch.setenv("FAKE_BUILD_SECONDS", "2")
    run_experiment(size, replace(processes, seeds=1, forecast=False))
    assert len(trained(processes)) == 3


@pytest.mark.proof
def test_a_killed_worker_has_no_cell_trained_twice(
    processes: ExperimentConfig, size: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed import Client, LocalCluster

    config = processes
    monkeypatch.setenv("FAKE_SECONDS", "4")
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, resources={"GPU": 1}, dashboard_address=":0"
    ) as cluster:  # type: ignore[no-untyped-call]
        thread = threading.Thread(
            target=run_experiment, args=(size, replace(config, scheduler=cluster.scheduler_address))
        )
        thread.start()
        while not (tmp_path / "log").exists() or len(trained(config)) < 2:
            time.sleep(0.1)
        with Client(cluster) as client:  # type: ignore[no-untyped-call]
            pid = next(iter(client.run(os.getpid).values()))  # type: ignore[no-untyped-call]
        os.kill(pid, signal.SIGKILL)
        thread.join(120)
    assert sorted(trained(config)) == sorted(set(trained(config)))
    assert read_table(config.folder / "table.parquet")["fingerprint"].nunique() == 6


def test_no_scheduler_gets_one_line(config: ExperimentConfig, size: Experiment) -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster:  # type: ignore[no-untyped-call]
        other = replace(config, scheduler=cluster.scheduler_address)
        with pytest.raises(CnlabError, match=r"no worker of .* has the resource GPU"):
            run_experiment(size, other)
