"""The verdict in words follows the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from evaluation.report.figures import draw_curves
from evaluation.report.page import _better, write_report
from evaluation.report.words import meanings, number, split_metric, verdict, words
from evaluation.results import append_rows, read_results
from trainer.convergence.words import verdict_words


def rows(**values: dict[str, tuple[float, float, float]]) -> pd.DataFrame:
    arms = {"r": "control", "r/prior": "prior", "real/vae": "autoencoder"}
    return pd.DataFrame(
        [
            {"run": run.replace("_", "/"), "arm": arms[run.replace("_", "/")], "metric": metric, "value": value,
             "ci_low": low, "ci_high": high, "n": 64}
            for run, metrics in values.items()
            for metric, (value, low, high) in metrics.items()
        ]
    )  # fmt: skip


def table(own: float, floor: float, scaled: float, clip: float, kid: float) -> pd.DataFrame:
    def spread(value: float, half: float) -> tuple[float, float, float]:
        return value, value - half, value + half

    return rows(
        r={
            "canny_f1_2px": spread(own, 0.02), "canny_f1_2px_floor": spread(floor, 0.02),
            "canny_f1_2px_normalised": spread(scaled, 0.03), "clip_score": spread(clip, 1), "kid_lite0": spread(kid, 5),
        },
        r_prior={"clip_score": spread(90.0, 1)},
        real_vae={"kid_lite0": spread(40.0, 5)},
    )  # fmt: skip


def test_three_contradictory_tables_give_three_verdicts() -> None:
    good = verdict(table(0.85, 0.2, 0.93, 93.0, 41.0), "r")
    poor = verdict(table(0.33, 0.2, 0.18, 84.0, 150.0), "r")
    blind = verdict(table(0.21, 0.2, 0.01, 90.5, 10.0), "r")
    assert good[0].startswith("r obeys its maps fully: 93 % of the way")
    assert poor[0].startswith("r obeys its maps only a little: 18 %")
    assert blind[0].startswith("r cannot be told from one that ignores its maps")
    assert "followed better than by the base model" in good[1]
    assert "followed less well than by the base model" in poor[1]
    assert blind[1].startswith("No difference to the base model alone is seen")
    assert good[2].startswith("As a set its pictures cannot be told")
    assert "farther from real ones" in poor[2]
    assert "closer to real ones" in blind[2]
    assert len({*good, *poor, *blind}) == 9


def test_an_error_is_better_when_it_is_lower() -> None:
    def depth(own: float, floor: float) -> str:
        parts = {"depth_rmse": (own, own - 1, own + 1), "depth_rmse_floor": (floor, floor - 1, floor + 1)}
        return verdict(rows(r=parts), "r")[0]

    assert depth(10, 40).startswith("r obeys its maps: depth RMSE 10.0 [9.00, 11.0]")
    assert depth(40, 10).startswith("r obeys its maps less than chance would")
    assert verdict(rows(r={"clip_score": (1, 0, 2)}), "r") == ["How far r obeys its maps was not measured."]


def test_without_an_interval_nothing_is_claimed() -> None:
    parts = {"canny_f1_2px": (0.9, None, None), "canny_f1_2px_floor": (0.1, None, None)}
    assert "cannot be told" in verdict(rows(r=parts), "r")[0]  # type: ignore[arg-type]
    sets = {"kid_lite0": (40.0, None, None)}
    assert verdict(rows(r=sets, real_vae=sets), "r")[-1].endswith("cannot be said of so few.")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("metric", "title"),
    [
        ("canny_f1_0px", "canny F1, exact"),
        ("canny_f1_2px_floor", "canny F1 within 2 px, on other samples' maps"),
        ("soft_edge_ms_ssim_normalised", "soft_edge MS-SSIM, normalised"),
        ("clip_score", "CLIP score"),
        ("kid_clip-vit", "Kernel distance (clip-vit) ×1000"),
        ("effective_rank_inception", "effective rank (inception)"),
        ("preference", "preference"),
    ],
)
def test_names_for_people(metric: str, title: str) -> None:
    assert words(metric) == title


def test_explanations_are_those_of_the_metrics_that_occur() -> None:
    assert split_metric("canny_f1") == ("canny", "f1", "")
    titles = [title for title, _ in meanings({"canny_f1_2px", "canny_f1_2px_floor", "kid_lite0"})]
    assert titles == ["F1 within 2 px", "on other samples' maps", "Kernel distance (Lite0) ×1000"]
    assert [number(v) for v in (0.4215, 11.94, 458.3, -1.234, 0, -0.00016)] == [
        "0.421", "11.9", "458", "-1.23", "0.000", "-0.00016",
    ]  # fmt: skip


def test_curves_mark_where_the_run_converged(run_folder: Path, tmp_path: Path) -> None:
    import shutil

    from PIL import Image

    assert verdict_words({"reason": "not converged: too short", "interval": None}) == "not converged: too short"
    plain = Path(shutil.copytree(run_folder, tmp_path / "plain"))
    (plain / "convergence.json").unlink()
    assert draw_curves(run_folder, tmp_path / "marked.png")
    assert draw_curves(plain, tmp_path / "plain.png")
    with Image.open(tmp_path / "marked.png") as marked, Image.open(tmp_path / "plain.png") as bare:
        assert marked.size == bare.size
        assert marked.tobytes() != bare.tobytes()
    assert not draw_curves(tmp_path, tmp_path / "none.png")


def test_several_sizes_get_learning_curves(tmp_path: Path) -> None:
    base: dict[str, Any] = {
        "dataset": "d", "condition": "canny", "split": "eval", "metric": "canny_f1_2px", "metric_version": "1",
        "ci_low": 0.1, "ci_high": 0.9, "n": 8, "arm": "control", "higher_is_better": True, "fingerprint": "f",
    }  # fmt: skip
    append_rows(tmp_path, [base | {"run": "a", "subset_size": 4, "step": 10, "value": 0.2}])
    assert "Learning curves" not in write_report(tmp_path).read_text()
    append_rows(tmp_path, [base | {"run": "b", "subset_size": 64, "step": 10, "value": 0.6}])
    assert "Learning curves" in write_report(tmp_path).read_text()


def test_what_is_neither_good_nor_bad_has_no_arrow(tmp_path: Path) -> None:
    row = {
        "run": "real", "arm": "real", "dataset": "d", "condition": "canny", "split": "eval", "n": 8, "fingerprint": "f",
        "metric": "effective_rank_lite0", "metric_version": "1", "value": 5.0, "higher_is_better": None,
    }  # fmt: skip
    append_rows(tmp_path, [row, row | {"metric": "clip_score", "higher_is_better": True}])
    table = read_results(tmp_path)
    assert [_better(table, metric) for metric in ("effective_rank_lite0", "clip_score")] == ["", "↑"]
