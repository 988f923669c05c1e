"""What commit 084dc56 left is read, evaluated and added to; nothing of it is lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evaluation.cli import evaluate
from evaluation.config import EvalConfig, RecipeOptions
from evaluation.generations import find_generated
from evaluation.results import COLUMNS, FIRST, TYPES, read_results

FIXTURE = Path(__file__).parents[1] / "fixtures" / "v084dc56"
TABLE = Path("results/results.parquet")
SAME = ["run", "dataset", "condition", "metric", "metric_version", "step", "gen_seed", "split", "n"]
SHOWN = ["run", "value", "ci_low", "ci_high", "n"]


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """The old table; the working directory is a copy of what lay there."""
    shutil.copytree(FIXTURE, tmp_path / "old", ignore=shutil.ignore_patterns("studies"))
    monkeypatch.chdir(tmp_path / "old")
    return pd.read_parquet(TABLE)


def test_all_44_rows_are_read_and_the_readmes_query_gives_the_same(old: pd.DataFrame) -> None:
    table = read_results(Path("results"))
    assert (len(old), len(table), tuple(table.columns)) == (44, 44, COLUMNS)
    types = {name: TYPES[name] for name in FIRST}
    pd.testing.assert_frame_equal(table[list(FIRST)], old[list(FIRST)].astype(types))
    query = "metric == 'canny_f1_2px'"
    before, after = (frame.query(query)[SHOWN].reset_index(drop=True) for frame in (old, table))
    assert len(before) == 8
    pd.testing.assert_frame_equal(after, before.astype({name: TYPES[name] for name in SHOWN}))
    arms = table.groupby("run").arm.first().to_dict()
    assert arms["old-a"], arms["old-a/shuffled"] == ("control", "shuffled")
    assert (arms["old-lite/prior"], arms["real"], arms["real/vae"]) == ("prior", "real", "autoencoder")
    own = table[table.run == "old-a"].iloc[0]
    assert (own.model, own.recipe) == ("8ab5bc233fa2", "tabletop,steps=2,block=16,version=1")
    assert find_generated(Path("results"), "old-a/prior").images


@pytest.mark.slow
def test_an_old_run_is_evaluated_beside_its_old_rows(old: pd.DataFrame) -> None:
    evaluate(EvalConfig(run=Path("runs/old-a"), images=3, recipe=RecipeOptions(steps=2), workers=1, device="cpu"))
    table = pd.read_parquet(TABLE)
    both = old.merge(table, on=SAME, suffixes=("", "_now"))
    there = both[np.isclose(both.value.astype(float), both.value_now.astype(float), rtol=1e-9)]
    assert len(there.drop_duplicates(SAME)) == len(old) == 44  # those of real pictures were measured again: the same
    new = table[(table.run == "old-a") & (table.recipe == "tabletop,steps=2")].set_index("metric")
    assert new.model.iloc[0] == "tiny-sd-8ab5bc233fa2"
    assert (new.step.iloc[0], new.subset_size.iloc[0], new.train_seed.iloc[0]) == (3, 8, 1)
    # the same net, noise and settings: the same pictures (captions have another judge now)
    then = old[(old.run == "old-a")].set_index("metric").value
    for metric in ("canny_f1_2px", "fd_lite0"):
        assert new.value[metric] == pytest.approx(then[metric], rel=1e-3)
    assert Path("results/report.html").is_file()
