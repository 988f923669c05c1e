"""The whole stage on a random model: pictures, rows, figures, report; and every kind of subject."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tyro

from evaluation.cli import compare, evaluate
from evaluation.config import CompareConfig, EvalConfig, JudgeOptions, RecipeOptions
from evaluation.generations import find_generated
from evaluation.report.page import write_report
from evaluation.results import IDENTITY, append_rows, read_results
from pipeline.contract.errors import CnlabError
from pipeline.contract.files import read_json

pytestmark = pytest.mark.slow

FIDELITY = {f"canny_{name}" for name in ("f1_0px", "f1_2px", "precision", "recall", "f1")}
COMMON = {"clip_score", "fd_lite0", "kid_lite0", "mind_lite0"} | FIDELITY
OWN = COMMON | {"canny_f1_2px_floor"}
QUICK = RecipeOptions(steps=2, block=4)


def settings(clip: Path, results: Path, **changes: Any) -> EvalConfig:
    base = {"images": 4, "recipe": QUICK, "pictures": 4, "device": "cpu", "judges": JudgeOptions(clip=str(clip))}
    return EvalConfig(results=results, **{**base, **changes})


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, run_folder: Path, clip_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("evaluated") / "results"
    evaluate(settings(clip_folder, folder, run=run_folder, groups=2))
    return folder


@pytest.fixture
def copy(results: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(results, tmp_path / "results"))


def test_every_row_is_there(results: Path) -> None:
    table = read_results(results)
    there = {run: set(rows.metric) - {"canny_f1_2px_normalised"} for run, rows in table.groupby("run")}
    assert there == {"real": COMMON, "real/vae": COMMON, "demo": OWN | {"copied_lite0"}, "demo/prior": OWN}
    own = table[table.run == "demo"]
    assert set(own.gen_seed) == {0, 1}
    assert (set(own.step), set(own.subset_size), set(own.arm)) == ({10}, {8}, {"control"})
    assert set(own.recipe) == {"tabletop,steps=2,block=4"}
    assert own.model.str.startswith("sd-").all()
    assert table[table.run == "real"].gen_seed.isna().all()
    assert (table.n == 4).all()
    assert not table.duplicated(list(IDENTITY)).any()
    assert table[table.metric == "canny_f1_2px"].set_index("run").value["real"] == 1


def test_normalised_runs_from_the_subjects_own_floor_to_the_autoencoder(results: Path) -> None:
    table = read_results(results)
    table = table[table.gen_seed.isna() | (table.gen_seed == 0)].set_index(["run", "metric"]).value
    ceiling = table["real/vae", "canny_f1_2px"]
    for run in ("demo", "demo/prior"):
        value, floor = table[run, "canny_f1_2px"], table[run, "canny_f1_2px_floor"]
        assert ((run, "canny_f1_2px_normalised") in table.index) == (ceiling > floor)
        if ceiling > floor:
            assert table[run, "canny_f1_2px_normalised"] == pytest.approx((value - floor) / (ceiling - floor))


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
    monkeypatch.setattr("evaluation.scores.measure", never)
    monkeypatch.setattr("evaluation.report.figures.draw_figures", never)
    before = (results / "results.parquet").read_bytes()
    evaluate(settings(clip_folder, results, run=run_folder, groups=2))
    assert "nothing to do" in capsys.readouterr().out
    assert (results / "results.parquet").read_bytes() == before


def test_lost_rows_are_written_again_from_the_scores(
    copy: Path, run_folder: Path, clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = read_results(copy)
    (copy / "results.parquet").unlink()
    rest = table[table.run != "demo/prior"].astype(object)
    append_rows(copy, rest.where(rest.notna(), None).to_dict("records"))
    monkeypatch.setattr("evaluation.scores.measure", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr("evaluation.sampling.Painter.__call__", lambda *_: pytest.fail("painted again"))
    evaluate(settings(clip_folder, copy, run=run_folder, groups=2))
    pd.testing.assert_frame_equal(read_results(copy).drop(columns="commit"), table.drop(columns="commit"))


def test_growing_and_other_recipes_conditions_and_priors_leave_what_was_there(
    copy: Path, run_folder: Path, clip_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    import torch
    from diffusers import UNet2DConditionModel

    before = read_results(copy)
    pictures = {p: p.read_bytes() for p in copy.glob("generations/**/*.png")}
    evaluate(settings(clip_folder, copy, run=run_folder, images=6))
    evaluate(settings(clip_folder, copy, run=run_folder, recipe=replace(QUICK, guidance=5.0)))
    other = shutil.copytree(model_folder, tmp_path / "other")
    unet = UNet2DConditionModel.from_pretrained(other / "unet")
    with torch.no_grad():
        unet.conv_out.bias.add_(0.1)
    unet.save_pretrained(other / "unet")
    evaluate(settings(clip_folder, copy, run=run_folder, model=str(other)))  # transfer to another base
    after = read_results(copy)
    keys = list(IDENTITY)
    merged = before.merge(after, on=keys, suffixes=("", "_after"))
    assert len(merged) == len(before)
    assert (merged.value == merged.value_after).all()
    assert {p: p.read_bytes() for p in pictures} == pictures
    own = after[(after.run == "demo") & (after.metric == "canny_f1_2px") & (after.gen_seed == 0)]
    assert sorted(zip(own.n, own.recipe.str.count("guidance"), own.model.str[:5], strict=True)) == [
        (4, 0, "other"), (4, 0, own.model.iloc[0][:5]), (4, 1, own.model.iloc[0][:5]), (6, 0, own.model.iloc[0][:5]),
    ] or len(own) == 4  # fmt: skip
    assert after[(after.run == "real") & (after.metric == "clip_score")].n.tolist() == [4, 6]
    assert after[(after.run == "real/vae") & (after.metric == "clip_score")].model.nunique() == 2


def test_a_folder_of_anybodys_pictures(
    copy: Path, run_folder: Path, clip_folder: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    made = find_generated(copy, "demo")
    for file, key in made.images.items():
        if file.endswith("-0.png"):
            shutil.copy(made.path(file), theirs / f"{key}.png")
    (theirs / "scene-3.png").unlink()
    shutil.copy(theirs / "scene-0.png", theirs / "stray.png")
    evaluate(settings(clip_folder, copy, subject=f"folder:{theirs}", dataset=dataset))
    printed = capsys.readouterr().out
    assert "3 of 4 samples have a picture" in printed
    assert "1 pictures there match no sample" in printed
    table = read_results(copy)
    own = table[table.run == "folder:theirs"].set_index("metric")
    assert set(own.n) == {3}
    assert own.value["canny_f1_2px"] > 0
    (tmp_path / "match.csv").write_text("file,key\nscene-0.png,scene-1\nscene-1.png,scene-0\n")
    evaluate(settings(clip_folder, copy, subject=f"folder:{theirs}", dataset=dataset, match=tmp_path / "match.csv"))
    assert set(read_results(copy).query("run == 'folder:theirs'").n) == {2, 3}
    with pytest.raises(CnlabError, match="give --match CSV"):
        evaluate(settings(clip_folder, copy, subject=f"folder:{copy / 'features'}", dataset=dataset))


def test_a_foreign_controlnet_several_at_once_and_the_prior_alone(
    copy: Path, run_folder: Path, clip_folder: Path, model_folder: Path, dataset: Path, tmp_path: Path
) -> None:
    from trainer.exchange.single_file import to_single_file
    from trainer.run_folder import open_run

    published = Path(shutil.copytree(open_run(run_folder).checkpoint, tmp_path / "control_v1_canny"))
    base = {"model": str(model_folder), "dataset": dataset, "condition": ("canny",)}
    made = find_generated(copy, "demo")
    evaluate(settings(clip_folder, copy, control=(str(published),), **base))
    same = find_generated(copy, "control:control_v1_canny")
    assert all((same.folder / f).read_bytes() == made.path(f).read_bytes() for f in same.images)
    file = to_single_file(published, tmp_path / "single.safetensors")
    evaluate(settings(clip_folder, copy, control=(str(file),), arms=("control",), **base))
    own = read_results(copy).query("metric == 'canny_f1_2px'").set_index("run").value
    assert own["control:single.safetensors"] == own["control:control_v1_canny"]
    both = {**base, "condition": ("canny", "canny"), "arms": ("control",)}
    evaluate(settings(clip_folder, copy, control=(str(run_folder), str(published)), **both))
    evaluate(settings(clip_folder, copy, subject="prior", model=str(model_folder), dataset=dataset))
    table = read_results(copy)
    assert {"control:demo+control_v1_canny", "model:sd/prior"} <= set(table.run)
    with pytest.raises(CnlabError, match="needs its base model"):
        evaluate(settings(clip_folder, copy, control=(str(published),), dataset=dataset))
    with pytest.raises(CnlabError, match="2 ControlNets and 1 conditions"):
        evaluate(settings(clip_folder, copy, control=(str(run_folder), str(published)), **base))


def test_comparing_pairs_the_same_samples_and_noise(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare(CompareConfig(("demo", "demo/prior"), copy))
    printed = capsys.readouterr().out
    assert "cannot be told apart" in printed or "is better" in printed
    rows = read_results(copy).query("against == 'demo/prior'").set_index("metric")
    assert set(rows.index) == {f"{metric}_difference" for metric in COMMON}
    assert set(rows.n) == {4}
    table = read_results(copy).query("metric == 'clip_score' and against.isna()")
    means = table.groupby("run").value.mean()
    assert rows.value["clip_score_difference"] == pytest.approx(means["demo"] - means["demo/prior"])
    compare(CompareConfig(("demo", "real/vae"), copy))
    with pytest.raises(CnlabError, match="no scores of nobody"):
        compare(CompareConfig(("demo", "nobody"), copy))


def test_the_plan_is_all_a_dry_run_does(
    tmp_path: Path, run_folder: Path, clip_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(settings(clip_folder, tmp_path / "results", run=run_folder, dry_run=True, images=100))
    printed = capsys.readouterr().out
    assert "demo, demo/prior, step 10, condition canny" in printed
    assert "6 samples, fewer than --images 100" in printed
    assert not (tmp_path / "results").exists()


def test_the_report_is_one_offline_page(results: Path) -> None:
    page = (results / "report.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert not re.search(r'(src|href)="(?!data:image/png|data:text/csv|#)', page)
    assert page.count("<figure") == 4
    for text in ("n = 4", "run-mark-0", "not FID", "converged suddenly at step 7", "best", "worst"):
        assert text in page
    folder = next(results.glob("figures/demo-*"))
    assert (folder / "grid.png").is_file()
    index = read_json(folder / "figures.json")
    assert [file["name"] for file in index["tiles"][0]["files"]] == ["canny", "real", "demo", "demo/prior"]
    assert str(results.parent) not in page


def test_the_report_escapes_what_it_is_given(copy: Path) -> None:
    index = next(copy.glob("figures/demo-*")) / "figures.json"
    index.write_text(index.read_text().replace('"text": "', '"text": "<script>alert(1)</script>'))
    page = write_report(copy).read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_the_report_needs_nothing_but_results(results: Path, copy: Path, tmp_path: Path) -> None:
    shutil.rmtree(copy / "generations")
    (copy / "report.html").unlink()
    assert write_report(copy).read_bytes() == (results / "report.html").read_bytes()
    with pytest.raises(CnlabError, match="no results yet"):
        write_report(tmp_path / "none")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "1", "--run", "x"], "--images 1 is too small"),
        (["--recipe.steps", "0", "--run", "x"], "--recipe.steps 0"),
        ([], "what is to be evaluated"),
        (["--recipe.guidance", "nan", "--run", "x"], "--recipe.guidance nan"),
        (["--seed", "-1", "--run", "x"], "--seed -1"),
        (["--arms", "--run", "x"], "--arms is empty"),
        (["--run", "x", "--subject", "prior"], "give --run"),
        (["--subject", "pictures"], "neither prior nor folder:PATH"),
    ],
)
def test_settings_that_cannot_work_get_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(CnlabError, match=message):
        tyro.cli(EvalConfig, args=arguments)


def test_a_run_that_is_not_there(tmp_path: Path, clip_folder: Path) -> None:
    with pytest.raises(CnlabError, match="not a finished run"):
        evaluate(settings(clip_folder, tmp_path / "results", run=tmp_path / "none"))


def test_a_judge_that_is_not_there_is_seen_before_painting(tmp_path: Path, run_folder: Path) -> None:
    with pytest.raises(CnlabError, match=r"cannot be loaded from .*--clip PATH"):
        evaluate(settings(tmp_path / "no-clip", tmp_path / "results", run=run_folder))
    assert not list(tmp_path.glob("results/generations/**/*.png"))


def test_no_more_processes_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    from evaluation import evaluate as module

    for cores, expected in ((1, 1), (2, 2), (64, 2)):
        monkeypatch.setattr(module, "cpu_count", lambda cores=cores: cores)
        assert module.processes("cpu", 16) == expected
        assert module.processes("cpu", 8) == module.processes("cuda", 16) == 1


@pytest.mark.proof
@pytest.mark.filterwarnings("ignore")  # of the killed worker
def test_workers_of_a_dask_scheduler_make_the_same_pictures(
    results: Path, run_folder: Path, clip_folder: Path, tmp_path: Path
) -> None:
    """Two workers with one GPU each (a fake resource), one of which is killed."""
    import os
    import signal
    import threading
    import time

    from distributed import Client, LocalCluster

    cluster = LocalCluster(2, threads_per_worker=1, processes=True, dashboard_address=None, resources={"GPU": 1})
    with cluster, Client(cluster) as client:
        victim = next(iter(client.run(os.getpid).values()))

        def kill() -> None:
            while not list(tmp_path.glob("**/*.png")):
                time.sleep(0.05)
            os.kill(victim, signal.SIGKILL)

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        address = cluster.scheduler_address
        evaluate(settings(clip_folder, tmp_path / "r", run=run_folder, groups=2, scheduler=address))
        killer.join(60)
    for subject in ("demo", "demo/prior"):
        ours, theirs = find_generated(tmp_path / "r", subject), find_generated(results, subject)
        assert ours.images == theirs.images
        assert all(ours.path(f).read_bytes() == theirs.path(f).read_bytes() for f in ours.images)
    table, local = read_results(tmp_path / "r"), read_results(results)
    # judges count in as many threads as the process last had: a bootstrap over six pictures may end a rank further then
    ends = ["ci_low", "ci_high"]
    table, local = table.drop(columns="commit"), local.drop(columns="commit")
    pd.testing.assert_frame_equal(table.drop(columns=ends), local.drop(columns=ends), rtol=1e-5, atol=1e-5)
    pd.testing.assert_frame_equal(table[ends], local[ends], rtol=0.05, atol=1e-5)
