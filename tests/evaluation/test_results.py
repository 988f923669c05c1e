from __future__ import annotations

import csv
import multiprocessing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from evaluation.results import COLUMNS, FIRST, TYPES, append_rows, read_results
from pipeline.contract.errors import CnlabError
from pipeline.contract.files import write_json
from pipeline.contract.text import for_terminal


def row(**changes: Any) -> dict[str, Any]:
    base = {
        "run": "a",
        "dataset": "demo",
        "condition": "canny",
        "subset_size": 1000,
        "train_seed": 0,
        "gen_seed": 0,
        "step": 100,
        "split": "eval",
        "metric": "clip_score",
        "metric_version": "1",
        "value": 1.5,
        "ci_low": 1.0,
        "ci_high": 2.0,
        "n": 8,
        "higher_is_better": True,
        "fingerprint": "f",
        "commit": "c",
        "arm": "control",
        "model": "m",
        "recipe": "tabletop",
    }
    return {**base, **changes}


def test_no_table_is_an_empty_one_with_types(tmp_path: Path) -> None:
    frame = read_results(tmp_path)
    assert len(frame) == 0
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == TYPES


def test_rows_come_back_with_types_in_contract_order(tmp_path: Path) -> None:
    append_rows(tmp_path, [row(), row(run="real", subset_size=None, train_seed=None, step=None, ci_low=None)])
    frame = read_results(tmp_path)
    assert tuple(frame.columns) == COLUMNS
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == TYPES
    real = frame[frame.run == "real"].iloc[0]
    assert real.subset_size is pd.NA
    assert real.ci_low is pd.NA


def test_same_identity_replaces_and_missing_step_counts_as_equal(tmp_path: Path) -> None:
    append_rows(tmp_path, [row(), row(run="real", step=None)])
    append_rows(tmp_path, [row(value=9.0), row(run="real", step=None, value=8.0), row(split="train", value=7.0)])
    frame = read_results(tmp_path)
    assert sorted(frame.value) == [7.0, 8.0, 9.0]


def test_files_do_not_depend_on_the_order_of_writing(tmp_path: Path) -> None:
    rows = [row(metric=name, run=run) for name in "cab" for run in ("y", "x")]
    append_rows(tmp_path / "one", rows)
    for each in reversed(rows):
        append_rows(tmp_path / "two", [each])
    for name in ("results.csv", "results.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_csv_runs_no_formula_and_keeps_negative_numbers(tmp_path: Path, start: str) -> None:
    append_rows(tmp_path, [row(run=f"{start}cmd()", value=-1.25, ci_low=-2.0)])
    with (tmp_path / "results.csv").open(newline="") as handle:
        cells = next(csv.DictReader(handle))
    assert cells["run"] == f"'{for_terminal(start)}cmd()"  # a control character is shown, not obeyed
    assert cells["value"] == "-1.25"
    assert cells["ci_low"] == "-2.0"
    assert read_results(tmp_path).run[0] == f"{start}cmd()"  # only the spreadsheet copy is changed


@pytest.mark.parametrize("bad", [{"value": float("nan")}, {"value": float("inf")}, {"run": None}, {"surprise": 1}])
def test_bad_rows_are_refused_and_leave_no_file(tmp_path: Path, bad: dict[str, Any]) -> None:
    with pytest.raises(CnlabError, match="result row"):
        append_rows(tmp_path, [row(), row(**bad)])
    assert not (tmp_path / "results.parquet").exists()


def test_damaged_and_foreign_tables_are_named(tmp_path: Path) -> None:
    (tmp_path / "results.parquet").write_bytes(b"no parquet")
    with pytest.raises(CnlabError, match=r"results\.parquet cannot be read"):
        read_results(tmp_path)
    pd.DataFrame({"run": ["a"]}).to_parquet(tmp_path / "results.parquet")
    with pytest.raises(CnlabError, match="lacks the columns dataset"):
        read_results(tmp_path)


def _write_one(folder: str, index: int) -> None:
    append_rows(Path(folder), [row(run=f"run-{index}")])


def test_two_processes_at_once_lose_no_row(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write_one, args=(str(tmp_path), i)) for i in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert sorted(read_results(tmp_path).run) == ["run-0", "run-1"]


def test_rows_that_differ_in_what_they_were_measured_on_stand_beside_each_other(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {}, {"condition": "softedge"}, {"n": 16}, {"model": "other"}, {"recipe": "paper"}, {"against": "b"},
        {"metric_version": "2"}, {"arm": "prior"},
    ]  # fmt: skip
    append_rows(tmp_path, [row(**change) for change in changes])
    append_rows(tmp_path, [row(value=2.5)])
    frame = read_results(tmp_path)
    assert len(frame) == len(changes)
    assert (frame.value == 2.5).sum() == 1


def test_an_older_table_is_filled_from_its_names_and_manifests(tmp_path: Path) -> None:
    """The README's query gives the same rows, and new rows stand beside the old."""
    old = pd.DataFrame([{k: v for k, v in row().items() if k in FIRST}]).astype({n: TYPES[n] for n in FIRST})
    names = ["a", "a/prior", "a/shuffled", "real", "real/vae", "no subject at all"]
    table = pd.concat([old.assign(run=name, metric="canny_f1_2px", value=float(i)) for i, name in enumerate(names)])
    table.to_parquet(tmp_path / "results.parquet", index=False)
    settings = {
        "steps": 12,
        "guidance": 3.0,
        "dtype": "float32",
        "scheduler": "UniPCMultistepScheduler",
        "version": "1",
    }
    manifest = {
        "run": "a", "arm": "control", "dataset": "demo", "fingerprint": "f",
        "images": [{"file": "x-0.png", "key": "k", "group": 0}],
        "config": {"model": {"sha256": "abcdef0123456789"}, "recipe": settings},
    }  # fmt: skip
    write_json(tmp_path / "generations" / "a" / "control" / "manifest.json", manifest)
    frame = read_results(tmp_path).set_index("run")
    assert frame.value.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert frame.arm[:5].tolist() == ["control", "prior", "shuffled", "real", "autoencoder"]
    assert frame.arm["no subject at all"] is pd.NA
    assert (frame.model["a"], frame.recipe["a"]) == ("abcdef012345", "tabletop,block=16,version=1")
    assert frame.model["a/prior"] is pd.NA
    append_rows(tmp_path, [row(metric="canny_f1_2px", value=9.0)])
    shown = read_results(tmp_path).query("metric == 'canny_f1_2px'")[["run", "value", "ci_low", "ci_high", "n"]]
    assert sorted(shown.value) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 9.0]
