"""The whole path through the command lines that the Makefile calls, on small sizes and the shipped prior."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from evaluation.results import COLUMNS
from trainer.nets.models import WEIGHTS

TOOLS = {"dataset": "pipeline", "train": "trainer", "eval": "evaluation", "study": "user_study"}


def call(tool: str, *options: str, cwd: Path) -> str:
    code = f"from {TOOLS[tool]}.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *options], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_dataset_train_eval_study_and_a_second_time(tmp_path: Path) -> None:
    data, run = ("--dataset", "data/small"), ("--subjects", "r", "r/prior")
    quick = ("--watch.loss-samples", "8", "--watch.fidelity-samples", "4", "--watch.sampling-steps", "3")
    short = ("--steps", "6", "--batch", "8", "--validate-every", "6", *quick)
    commands = [
        ("dataset", "build", "--size", "48", "--eval-size", "12", "--workers", "0", "--name", "small"),
        ("train", "run", *data, *short, "--name", "r"),
        ("eval", "--run", "runs/r", "--images", "12", "--recipe.steps", "3"),
        ("study", "make", *run, *data, "--out", "studies/r", "--items.per-sheet", "8"),
    ]
    for command in commands:
        call(*command, cwd=tmp_path)
    table = pd.read_parquet(tmp_path / "results" / "results.parquet")
    assert list(table.columns) == list(COLUMNS)
    assert not table.duplicated(["run", "dataset", "metric", "gen_seed"]).any()
    for metric in ("canny_f1_2px", "clip_score", "fd_lite0", "kid_lite0"):
        rows = table[table["metric"] == metric].set_index("run")
        assert {"r", "r/prior", "real", "real/vae"} <= set(rows.index)
        assert (rows["ci_low"] <= rows["value"]).all()
        assert (rows["value"] <= rows["ci_high"]).all()
    edges = table[table["metric"] == "canny_f1_2px"].set_index("run")["value"]
    assert edges["real"] == 1.0
    assert edges["real/vae"] > 0.8
    assert (tmp_path / "results" / "report.html").stat().st_size > 10_000
    assert len(list((tmp_path / "studies" / "r" / "sheets").glob("*.html"))) == 2

    def stamps() -> dict[str, int]:
        kept = [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix in (".png", ".parquet", ".safetensors")]
        return {str(p): p.stat().st_mtime_ns for p in kept}

    before = stamps()
    for command in commands:
        call(*command, cwd=tmp_path)
    assert stamps() == before


def test_model_cards_tell_what_was_measured() -> None:
    for name in ("tabletop-sd", "tabletop-clip", "tabletop-judge"):
        card = (WEIGHTS / name / "README.md").read_text()
        assert "## Measured" in card
        assert card.count("...") >= 1  # intervals
