"""What seeds alone change: read off runs that differ in nothing else, and said beside a difference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evaluation.compare import compare_all, verdicts, write_variances
from evaluation.config import CompareConfig
from evaluation.report.page import write_report
from evaluation.report.spread import seed_resolution
from evaluation.results import append_rows, read_results
from pipeline.contract.errors import CnlabError

KEYS = [f"k{i}" for i in range(40)]


def net(results: Path, run: str, values: np.ndarray, seed: int, size: int = 64, step: int = 10) -> None:
    """Scores and row of a run whose pictures score ``values`` (groups, samples)."""
    groups = len(values)
    common = {
        "run": run, "dataset": "d", "condition": "canny", "arm": "control", "model": "m", "recipe": "tabletop",
        "step": step,
    }  # fmt: skip
    table = pd.DataFrame(
        {
            **common, "eval_fingerprint": "e", "pictures": run + str(step), "metric": "canny_f1_2px",
            "metric_version": "1", "key": KEYS * groups, "gen_seed": np.repeat(np.arange(groups), len(KEYS)),
            "value": values.ravel(),
        }
    )  # fmt: skip
    (results / "scores.parquet").mkdir(parents=True, exist_ok=True)
    table.to_parquet(results / "scores.parquet" / f"{run.replace('/', '-')}-{step}.parquet")
    row = common | {
        "metric": "canny_f1_2px", "metric_version": "1", "split": "eval", "n": len(KEYS), "train_seed": seed,
        "subset_size": size, "variant": "controlnet", "fingerprint": "f", "higher_is_better": True,
    }  # fmt: skip
    append_rows(results, [row | {"gen_seed": g, "value": float(values[g].mean())} for g in range(groups)])


def scores(level: float, seed: int, groups: int = 1) -> np.ndarray:
    scene = np.random.default_rng(0).uniform(0.2, 0.6, len(KEYS))
    return scene + level + np.random.default_rng(seed).normal(0, 0.01, (groups, len(KEYS)))


@pytest.fixture
def panel(tmp_path: Path) -> Path:
    for seed, shift in ((1, 0.0), (2, 0.06), (3, -0.05)):
        net(tmp_path, f"small-n64-s{seed}", scores(shift, seed), seed)
    net(tmp_path, "large-n256-s1", scores(0.03, 11), 1, size=256)
    net(tmp_path, "huge-n4096-s1", scores(0.9, 12), 1, size=4096)
    return tmp_path


def test_a_difference_that_seeds_alone_make_is_below_resolution(panel: Path) -> None:
    lines = verdicts(compare_all(CompareConfig(("small-n64-s1", "large-n256-s1", "huge-n4096-s1"), panel)))
    assert len(lines) == 2
    assert (
        "large-n256-s1 is better here, but below resolution: other training seeds alone move it by up to 0.3"
        in lines[0]
    )
    assert "huge-n4096-s1 is better, by more than training seeds alone move it" in lines[1]
    alone = read_results(panel).query("against.isna()").set_index("run").value
    values = [alone[f"small-n64-s{seed}"] for seed in (1, 2, 3)]
    row = {
        "run": "small-n64-s1", "against": "large-n256-s1", "metric": "canny_f1_2px_difference", "dataset": "d",
        "condition": "canny", "model": "m", "recipe": "tabletop", "metric_version": "1", "n": 40,
    }  # fmt: skip
    assert seed_resolution(read_results(panel), row) == (
        pytest.approx(4.3027 * 2**0.5 * np.std(values, ddof=1), rel=1e-4),
        3,
    )
    against_prior = seed_resolution(read_results(panel), row | {"against": "small-n64-s1/prior"})
    assert against_prior == (pytest.approx(4.3027 * np.std(values, ddof=1), rel=1e-4), 3)
    assert seed_resolution(read_results(panel), row | {"n": 39}) == (None, 0)
    page = write_report(panel).read_text()
    assert page.count("below resolution") == 1
    assert page.count("above resolution") == 1


def test_runs_that_differ_in_more_than_their_seed_tell_nothing(tmp_path: Path) -> None:
    net(tmp_path, "mine", scores(0, 1), 1)
    net(tmp_path, "other", scores(0.2, 2), 1)
    lines = verdicts(compare_all(CompareConfig(("mine", "other"), tmp_path)))
    assert "other is better" in lines[0]
    assert "is not known here: evaluate runs that differ in --seed alone" in lines[1]
    net(tmp_path, "x-lr1-s1", scores(0, 3), 1)
    net(tmp_path, "x-lr2-s2", scores(0.2, 4), 2)
    assert "is not known" in verdicts(compare_all(CompareConfig(("x-lr1-s1", "x-lr2-s2"), tmp_path)))[-1]


def test_variances_of_seeds_noise_and_samples(tmp_path: Path) -> None:
    noise = np.random.default_rng(9).normal(0, 0.05, (2, len(KEYS)))
    for seed, shift in ((1, 0.0), (2, 0.06), (3, -0.05)):
        net(tmp_path, f"n64-s{seed}", scores(shift, seed, groups=2) + noise, seed)
    written = write_variances(tmp_path)
    assert written is not None
    table = pd.read_csv(written[0])
    assert table[["runs", "metric", "seeds", "groups", "n"]].to_numpy().tolist() == [
        ["n64-s1 n64-s2 n64-s3", "canny_f1_2px", 3, 2, 40]
    ]
    parts = table.iloc[0]
    assert parts.seed**0.5 == pytest.approx(np.std([0.0, 0.06, -0.05], ddof=1), rel=0.1)
    assert parts["sample"] ** 0.5 == pytest.approx(0.4 / 12**0.5, rel=0.2)
    assert parts.group**0.5 == pytest.approx(0.05, rel=0.2)
    assert parts.residual**0.5 == pytest.approx(0.01, rel=0.2)
    page = write_report(tmp_path).read_text()
    assert "Where scores differ" in page
    assert f"{parts.seed**0.5:.3g}" in page


def test_without_two_seeds_there_is_no_table(tmp_path: Path) -> None:
    net(tmp_path, "mine", scores(0, 1), 1)
    assert write_variances(tmp_path) is None


def test_a_run_that_went_on_is_compared_at_one_step(panel: Path) -> None:
    net(panel, "small-n64-s1", scores(0.5, 20), 1, step=20)
    with pytest.raises(CnlabError, match="several steps; give --step and one of 10, 20"):
        compare_all(CompareConfig(("small-n64-s1", "large-n256-s1"), panel))
    early, late = (
        compare_all(CompareConfig(("small-n64-s1", "large-n256-s1"), panel, step=step))[0]["value"] for step in (10, 20)
    )
    assert (early < 0 < late, late - early) == (True, pytest.approx(0.5, abs=0.01))
    with pytest.raises(CnlabError, match="no scores with --recipe paper"):
        compare_all(CompareConfig(("small-n64-s2", "large-n256-s1"), panel, recipe="paper"))


def test_of_pictures_that_were_replaced_the_last_ones_count(tmp_path: Path) -> None:
    net(tmp_path, "a", scores(0, 1), 1)
    net(tmp_path, "b", scores(0.1, 1), 1)
    older = tmp_path / "scores.parquet" / "a-10.parquet"
    again = pd.read_parquet(older).assign(pictures="others", value=lambda t: t.value + 0.3)
    again.to_parquet(tmp_path / "scores.parquet" / "a-11.parquet")
    row = compare_all(CompareConfig(("a", "b"), tmp_path))[0]
    assert (row["value"], row["n"]) == (pytest.approx(0.2), len(KEYS))
