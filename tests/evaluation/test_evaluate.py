"""The whole stage on a random model: pictures, rows, figures, report."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import tyro

from evaluation.cli import evaluate
from evaluation.config import EvalConfig
from evaluation.report.figures import arm_of, draw_curves, read_verdict, say_verdict
from evaluation.report.page import write_report
from evaluation.report.words import meanings, words
from evaluation.results import append_rows, read_results
from pipeline.contract.errors import CnlabError
from pipeline.contract.files import read_json
from trainer.run_folder import open_run

COMMON = {"clip_score", "canny_f1_0px", "canny_f1_2px", "fd_lite0", "kid_lite0"}


def settings(run: Path, clip: Path, results: Path, **changes: object) -> EvalConfig:
    base = {"images": 4, "steps": 2, "batch": 4, "clip": str(clip), "pictures": 2, "groups": 2, "device": "cpu"}
    return EvalConfig(run=run, results=results, **{**base, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, run_folder: Path, clip_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("evaluated") / "results"
    evaluate(settings(run_folder, clip_folder, folder))
    return folder


def test_every_row_is_there(results: Path) -> None:
    table = read_results(results)
    found = {run: set(rows.metric) for run, rows in table.groupby("run")}
    assert found == {
        "real": COMMON,
        "real/vae": COMMON,
        "demo": COMMON | {"canny_f1_2px_normalised"},
        "demo/shuffled": COMMON,
        "demo/prior": COMMON,
    }
    own = table[table.run == "demo"]
    assert set(own.gen_seed) == {0, 1}
    assert set(own.step) == {10}
    assert set(own.subset_size) == {8}
    assert table[table.run == "real"].gen_seed.isna().all()
    assert (table.n == 4).all()
    assert (table.split == "eval").all()


def test_numbers_are_consistent(results: Path) -> None:
    table = read_results(results).set_index(["run", "metric", "gen_seed"]).sort_index()
    ceiling = read_results(results).query("run == 'real' and metric == 'canny_f1_2px'").value.item()
    assert ceiling == 1
    for group in (0, 1):
        value, floor, scaled = (
            table.loc[key].value.item()
            for key in (
                ("demo", "canny_f1_2px", group),
                ("demo/shuffled", "canny_f1_2px", group),
                ("demo", "canny_f1_2px_normalised", group),
            )
        )
        assert scaled == pytest.approx((value - floor) / (ceiling - floor))
    frame = read_results(results)
    with_interval = frame[frame.ci_low.notna()]
    assert len(with_interval) > 20
    assert (with_interval.ci_low <= with_interval.value).all()
    assert (with_interval.ci_high >= with_interval.value).all()


def test_the_same_command_again_does_nothing(
    results: Path,
    run_folder: Path,
    clip_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("work was done twice")

    monkeypatch.setattr("evaluation.sampling.Painter.__init__", never)
    monkeypatch.setattr("evaluation.evaluate.measure", never)
    monkeypatch.setattr("evaluation.report.figures.draw_run", never)
    before = (results / "results.parquet").read_bytes()
    evaluate(settings(run_folder, clip_folder, results))
    assert "nothing to do" in capsys.readouterr().out
    assert (results / "results.parquet").read_bytes() == before


def test_a_lost_row_group_is_scored_again_without_painting(
    results: Path, tmp_path: Path, run_folder: Path, clip_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(results, tmp_path / "results")
    table = read_results(copy)
    (copy / "results.parquet").unlink()
    kept = table[table.run != "demo/prior"].astype(object)
    append_rows(copy, kept.where(kept.notna(), None).to_dict("records"))
    evaluate(settings(run_folder, clip_folder, copy))
    assert "made 0 pictures, wrote 10 rows" in capsys.readouterr().out
    again = read_results(copy)
    # float32 embeddings may differ in their last bits with the alignment of memory; nothing else may differ
    pd.testing.assert_frame_equal(again.drop(columns="commit"), table.drop(columns="commit"), rtol=1e-6, atol=1e-6)


def test_other_settings_in_the_same_folder_are_refused(results: Path, run_folder: Path, clip_folder: Path) -> None:
    with pytest.raises(CnlabError, match="another configuration"):
        evaluate(settings(run_folder, clip_folder, results, guidance=5.0))


def test_the_plan_is_all_a_dry_run_does(
    tmp_path: Path, run_folder: Path, clip_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(settings(run_folder, clip_folder, tmp_path / "results", dry_run=True, images=100))
    said = capsys.readouterr().out
    assert "demo, step 10, condition canny" in said
    assert "6 samples, fewer than --images 100" in said
    assert not (tmp_path / "results").exists()


def test_the_report_is_one_offline_page(results: Path) -> None:
    page = (results / "report.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert not re.search(r'(src|href)="(?!data:image/png)', page)
    assert page.count("<figure") == 2
    verdict = "converged suddenly at step 7; 95 % interval 5 to 9."
    for text in ("canny F1 at 2 px, normalised", "real pictures (ceiling)", "run-mark-0", "This is not FID", verdict):
        assert text in page
    assert (results / "figures" / "demo" / "grid.png").is_file()
    index = read_json(results / "figures" / "demo" / "figures.json")
    assert [name for name, _ in index["tiles"][0]["files"]] == ["canny", "real", "control", "shuffled", "prior"]
    assert str(results.parent) not in page


def test_the_report_escapes_what_it_is_given(results: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(results, tmp_path / "results")
    index = copy / "figures" / "demo" / "figures.json"
    index.write_text(index.read_text().replace('"text": "', '"text": "<script>alert(1)</script>'))
    page = write_report(copy).read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_curves_mark_where_the_run_converged(run_folder: Path, tmp_path: Path) -> None:
    from PIL import Image

    run = open_run(run_folder)
    found = read_verdict(run)
    assert say_verdict({"reason": "not converged: too short", "interval": None}) == "not converged: too short"
    assert read_verdict(replace(run, folder=tmp_path)) == {}
    draw_curves(run, tmp_path / "marked.png", found)
    draw_curves(run, tmp_path / "plain.png", {**found, "interval": None})
    with Image.open(tmp_path / "marked.png") as marked, Image.open(tmp_path / "plain.png") as plain:
        assert marked.size == plain.size
        assert marked.tobytes() != plain.tobytes()


def test_report_only_needs_nothing_but_results(results: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(results, tmp_path / "results")
    shutil.rmtree(copy / "generations")
    (copy / "report.html").unlink()
    evaluate(EvalConfig(results=copy, report_only=True))
    assert (copy / "report.html").read_bytes() == (results / "report.html").read_bytes()
    with pytest.raises(CnlabError, match="no results yet"):
        evaluate(EvalConfig(results=tmp_path / "none", report_only=True))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--images", "1", "--run", "x"], "--images 1 is too small"),
        (["--steps", "0", "--run", "x"], "--steps 0"),
        ([], "which run"),
        (["--guidance", "nan", "--run", "x"], "--guidance nan"),
        (["--seed", "-1", "--run", "x"], "negative"),
        (["--arms", "--run", "x"], "--arms is empty"),
    ],
)
def test_settings_that_cannot_work_get_one_line(arguments: list[str], said: str) -> None:
    with pytest.raises(CnlabError, match=said):
        tyro.cli(EvalConfig, args=arguments)


def test_a_run_that_is_not_there(tmp_path: Path, clip_folder: Path) -> None:
    with pytest.raises(CnlabError, match="not a finished run"):
        evaluate(settings(tmp_path / "none", clip_folder, tmp_path / "results"))


def test_a_judge_that_is_not_there_is_found_out_before_painting(tmp_path: Path, run_folder: Path) -> None:
    with pytest.raises(CnlabError, match=r"cannot be loaded from .*--clip PATH"):
        evaluate(settings(run_folder, tmp_path / "no-clip", tmp_path / "results"))
    assert not list(tmp_path.glob("results/generations/**/*.png"))


def test_names_for_people() -> None:
    assert words("canny_f1_0px") == "canny F1 at 0 px ↑"
    assert words("preference") == "preference"
    assert [title for title, _ in meanings({"canny_f1_2px", "kid_lite0"})] == [
        "Edge F1 at 2 px",
        "Kernel distance (Lite0) ×1000 ↓",
    ]
    assert [arm_of(run) for run in ("real", "real/vae", "a", "a/prior", "a/shuffled")] == [
        "real", "real/vae", "control", "prior", "shuffled",
    ]  # fmt: skip
