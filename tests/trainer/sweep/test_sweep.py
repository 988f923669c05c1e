from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pipeline.contract.dataset import Triplets
from pipeline.contract.errors import CnlabError
from pipeline.contract.files import lock_folder, read_json
from trainer.config import TrainConfig
from trainer.sweep import cost, run, words
from trainer.sweep.cost import Costs, forecast
from trainer.sweep.fit import PowerLaw, estimate, fit_power_law
from trainer.sweep.plan import SweepConfig, plan
from trainer.sweep.run import run_sweep
from trainer.sweep.stats import (
    COLUMNS,
    FIDELITY,
    LOSS,
    Interval,
    as_table,
    convergences,
    differences,
    final,
    mean_interval,
    size_rows,
    verdict,
)

RECIPE = {
    "warmup": "1", "hint": "8, 8, 8, 8", "log_every": "1", "loss_samples": "3", "fidelity_samples": "2",
    "sampling_steps": "1", "grid": "1",
}  # fmt: skip


@pytest.fixture(scope="module")
def config(model_folder: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> SweepConfig:
    return SweepConfig(
        dataset=dataset, sizes=("8,2",), seeds=2, steps=4, batch=2, model=str(model_folder), lr=1e-3, validate_every=2,
        out=tmp_path_factory.mktemp("runs"), name="demo", recipe=RECIPE, device="cpu",
    )  # fmt: skip


@pytest.fixture(scope="module")
def swept(config: SweepConfig) -> Path:
    return run_sweep(config)


def test_a_plan_has_every_run_once_with_its_steps_and_epochs(config: SweepConfig) -> None:
    runs = plan(replace(config, sizes=("2", "4", "8")), "canny", 8)
    assert [(r.size, r.steps, r.arms) for r in runs[:5]] == [
        (2, 4, ("steps",)), (2, 1, ("epochs",)), (4, 4, ("steps",)), (4, 2, ("epochs",)), (8, 4, ("steps", "epochs")),
    ]  # fmt: skip
    assert [r.config.seed for r in runs] == [0] * 5 + [1] * 5
    assert [r.images for r in runs[:2]] == [8, 2]
    assert {r.epochs for r in runs if "epochs" in r.arms} == {1.0}
    assert [r.epochs for r in runs if r.arms == ("steps",)] == [4, 2] * 2
    assert len({r.config.folder for r in runs}) == 10
    shared = [
        {k: v for k, v in r.config.as_dict().items() if k not in ("name", "subset", "steps", "seed")} for r in runs
    ]
    assert all(s == shared[0] for s in shared)


def test_epochs_are_kept_to_the_nearest_step_and_never_none(config: SweepConfig) -> None:
    steps = {r.size: r.steps for r in plan(replace(config, sizes=("1,3,1000",), steps=400, arms=("epochs",)), "", 1000)}
    assert steps == {1: 1, 3: 1, 1000: 400}
    one = plan(replace(config, sizes=("5", "1k"), steps=100, arms=("steps",)), "", 1000)
    assert [r.steps for r in one] == [100] * 4


def test_lists_come_as_one_word_or_several(config: SweepConfig) -> None:
    assert replace(config, sizes=("1k,5k", "500")).numbers == [500, 1000, 5000]
    assert replace(config, arms=("epochs,steps",)).arms == ("steps", "epochs")
    assert config.training("canny").validate_every == 2
    assert replace(config, validate_every=None, steps=400).training("canny").validate_every == 20
    assert len(fields(SweepConfig)) <= 25


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"arms": ("images",)}, "must be steps, epochs or both"),
        ({"arms": ()}, "must be steps, epochs or both"),
        ({"sizes": ("",)}, "--sizes is empty"),
        ({"sizes": ("1k,few",)}, "is not a positive number"),
        ({"seeds": 0}, "--seeds must be at least 1"),
        ({"sizes": ("9",)}, "has 8 train samples"),
        ({"recipe": {"nonsense": "1"}}, "unknown recipe setting"),
        ({"validate_every": 0}, "--validate-every must be at least 1"),
    ],
)
def test_bad_options_get_one_line(config: SweepConfig, options: dict[str, object], said: str) -> None:
    with pytest.raises(CnlabError, match=said):
        run_sweep(replace(config, **options))  # type: ignore[arg-type]


def test_the_table_is_tidy_and_complete(swept: Path) -> None:
    table = pd.read_parquet(swept / "sweep.parquet")
    assert tuple(table.columns) == COLUMNS
    assert not table.duplicated(["arm", "subset_size", "train_seed", "step", "metric"]).any()
    assert set(table["arm"]) == {"steps", "epochs"}
    assert set(table["subset_size"]) == {2, 8}
    assert set(table["train_seed"]) == {0, 1}
    expected = {f"loss/{a}" for a in ("true", "shuffled", "none", "gap")} | {"convergence_step"}
    expected |= {f"fidelity/{a}" for a in ("true", "shuffled", "gap")}
    assert set(table["metric"]) == expected
    for metric in (FIDELITY, LOSS):
        for arm in ("steps", "epochs"):
            assert final(table, arm, metric).notna().all(axis=None)
    whole = final(table, "steps", LOSS)[8]
    assert whole.equals(final(table, "epochs", LOSS)[8])  # the largest size's run serves both arms
    assert table[table["subset_size"] == 8]["run"].nunique() == 2
    assert set(table[(table["arm"] == "epochs") & (table["subset_size"] == 2)]["steps"]) == {1}
    own = pd.read_parquet(swept / "demo-n8-4steps-s1" / "validation.parquet").query("metric == 'loss' and arm == 'gap'")
    assert own["value"].iloc[-1] == whole[1]


def test_a_seed_starts_every_size_from_the_same_net_and_held_out_noise(swept: Path) -> None:
    table = pd.read_parquet(swept / "sweep.parquet")
    start = table[(table["step"] == 0) & (table["metric"] == "loss/none")]
    assert len(start) == 8
    assert start["value"].nunique() == 1


def test_header_summary_and_report(swept: Path) -> None:
    header, summary = read_json(swept / "sweep.json"), read_json(swept / "summary.json")
    assert header["fingerprint"] == summary["fingerprint"]
    assert [r["status"] for r in header["runs"]] == ["complete"] * 6
    assert all(r["seconds"] > 0 and r["forecast_seconds"] > 0 and r["forecast_bytes"] > 0 for r in header["runs"])
    assert summary["cost"]["runs"] == 6
    assert summary["cost"]["ratio"] == pytest.approx(
        sum(r["seconds"] for r in header["runs"]) / sum(r["forecast_seconds"] for r in header["runs"])
    )
    assert "not judged, 3 points" in (swept / "report.md").read_text()
    [measured] = header["costs"]
    assert all(measured[k] > 0 for k in ("step", "validation", "checkpoint", "checkpoint_bytes", "start"))
    assert measured["forecast_seconds"] == pytest.approx(sum(r["forecast_seconds"] for r in header["runs"]))
    assert {(r["arm"], r["smaller"], r["larger"], r["n"]) for r in summary["differences"]} == {
        ("steps", 2, 8, 2),
        ("epochs", 2, 8, 2),
    }
    assert all("too few to say: 2 sizes" in e["reason"] for e in summary["estimates"])
    text = (swept / "report.md").read_text()
    assert "equal epochs" in text
    assert "2 sizes, at least 3 are needed and 2 complete seeds, at least 3 are needed" in text
    assert (swept / "curve.png").stat().st_size > 5000
    runs = (swept / "runs.txt").read_text().splitlines()
    assert len(runs) == 6
    assert all((Path(r) / "summary.json").is_file() for r in runs)
    assert not list(swept.parent.glob(".forecast-*"))


def test_the_same_command_again_trains_nothing(
    config: SweepConfig, swept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_json(swept / "summary.json")["sizes"]
    monkeypatch.setattr(run, "measure", None)
    monkeypatch.setattr(run, "run_training", None)
    assert run_sweep(replace(config, target=0.5)) == swept
    assert "all 6 runs are complete" in capsys.readouterr().out
    assert read_json(swept / "summary.json")["sizes"] == before


def test_another_sweep_in_the_folder_is_refused(config: SweepConfig, swept: Path) -> None:
    with pytest.raises(CnlabError, match=r"another sweep \(it differs in seeds\)"):
        run_sweep(replace(config, seeds=3))
    with pytest.raises(CnlabError, match=r"it differs in lr"):
        run_sweep(replace(config, lr=2e-3, dry_run=True))


def test_json_has_no_nan(swept: Path) -> None:
    for name in ("sweep.json", "summary.json"):
        json.loads((swept / name).read_text(), parse_constant=pytest.fail)


def test_one_process_at_a_time(config: SweepConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with lock_folder(tmp_path / "demo"), pytest.raises(CnlabError, match="in use by another process"):
        run_sweep(replace(config, out=tmp_path))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(CnlabError, match="without torchrun"):
        run_sweep(replace(config, out=tmp_path))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the runs that are trained; costs are not measured again."""
    called: list[str] = []
    real = run.run_training

    def train(config: TrainConfig) -> Path:
        called.append(config.name)
        return real(config)

    monkeypatch.setattr(run, "run_training", train)
    monkeypatch.setattr(run, "measure", lambda run, triplets: COSTS)
    return called


COSTS = Costs(3.0, 2.0, 0.5, 7.0, 11.0, checkpoint_bytes=1000, validation_bytes=10, cache_bytes=100, ready=0)


def test_an_interrupted_sweep_trains_only_what_is_missing(
    config: SweepConfig, counted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(
        config,
        out=tmp_path,
        arms=("steps",),
        sizes=("2,4,8",),
        seeds=1,
        steps=2,
        recipe={**RECIPE, "fidelity_samples": "0"},
    )
    names = [r.name for r in plan(config, "canny", 8)]
    real = run.run_training

    def interrupted(given: TrainConfig) -> Path:
        if given.name == names[1]:
            raise KeyboardInterrupt
        return real(given)

    with monkeypatch.context() as patch:
        patch.setattr(run, "run_training", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_sweep(config)
    assert counted == names[:1]
    assert set(pd.read_parquet(tmp_path / "demo" / "sweep.parquet")["run"]) == set(names[:1])
    assert not (tmp_path / "demo" / "summary.json").exists()
    counted.clear()
    run_sweep(config)
    assert counted == names[1:]
    assert set(pd.read_parquet(tmp_path / "demo" / "sweep.parquet")["run"]) == set(names)
    assert (tmp_path / "demo" / "summary.json").exists()


def test_a_failed_run_is_recorded_and_the_others_go_on(
    config: SweepConfig, counted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(
        config,
        out=tmp_path,
        arms=("steps",),
        sizes=("2,4,8",),
        seeds=1,
        steps=1,
        recipe={**RECIPE, "fidelity_samples": "0"},
    )
    names = [r.name for r in plan(config, "canny", 8)]
    real = run.run_training

    def broken(given: TrainConfig) -> Path:
        if given.name == names[1]:
            raise CnlabError("the loss is no number")
        return real(given)

    with monkeypatch.context() as patch:
        patch.setattr(run, "run_training", broken)
        with pytest.raises(CnlabError, match=r"1 of 3 runs failed .*the loss is no number"):
            run_sweep(config)
    folder = tmp_path / "demo"
    assert counted == [names[0], *names[2:]]
    assert [r["status"] for r in read_json(folder / "sweep.json")["runs"]] == ["complete", "failed", "complete"]
    assert "Incomplete" in (folder / "report.md").read_text()
    assert not (folder / "summary.json").exists()
    run_sweep(config)
    assert counted[-1] == names[1]
    assert "Incomplete" not in (folder / "report.md").read_text()
    assert (folder / "summary.json").exists()


def test_dry_run_forecasts_and_leaves_nothing(
    config: SweepConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_sweep(replace(config, out=tmp_path, dry_run=True))
    said = capsys.readouterr().out
    assert "| demo-n8-4steps-s0 | steps+epochs | 4 | 8 | 1 |" in said
    assert "total: " in said
    assert not list(tmp_path.iterdir())


def test_cached_text_and_mirrored_latents_are_counted(config: SweepConfig, dataset: Path, tmp_path: Path) -> None:
    triplets = Triplets(dataset)
    config = replace(config, out=tmp_path, flip=True, engine=("text_cache",))
    measured = cost.measure(plan(config, "canny", 8)[-1], triplets)
    latents = 2 * 8 * 8 * 8  # bytes of mean and deviation: 8 channels of 8 x 8 halves
    assert measured.cache_bytes == 2 * latents + 2 * 32 * 16  # mirrored too, and the text states of 32 tokens
    assert measured.ready == 8
    assert measured.encode > 0


def test_plans_that_say_little_are_said(config: SweepConfig, tmp_path: Path) -> None:
    def said(**options: object) -> str:
        runs = plan(replace(config, out=tmp_path, **options), "canny", 1000)  # type: ignore[arg-type]
        return words.forecast_text("demo", forecast(runs, COSTS), COSTS, 0)

    assert "note" not in said(arms=("steps",))
    assert "runs of 1 steps end within their warm-up of 3 steps" in said(recipe={**RECIPE, "warmup": "3"})
    assert "runs of size 100, 1k end before they have seen their subset once" in said(sizes=("2,100,1k",))


def test_nothing_starts_without_a_yes(
    config: SweepConfig, counted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: "n")
    with pytest.raises(CnlabError, match="nothing was started"):
        run_sweep(replace(config, out=tmp_path))
    assert counted == []


def test_forecast_adds_up(config: SweepConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(config, out=tmp_path, seeds=1, steps=250, validate_every=100, save_every=100)
    small, passes, large = forecast(plan(config, "canny", 8), COSTS)
    # validated at 0, 100, 200, 250, saved at 100, 200, 250; the first run encodes 2 images, the last one the rest
    assert small.seconds == 3 + 250 * 2 + 2 * 0.5 + 4 * 7 + 3 * 11
    assert passes.seconds == 3 + 63 * 2 + 2 * 7 + 1 * 11
    assert large.seconds == small.seconds + 4 * 0.5
    assert (small.bytes, passes.bytes) == (2 * 1000 + 4 * 10 + 2 * 100, 1000 + 2 * 10)
    monkeypatch.setattr(cost, "steps_done", lambda folder: 200)
    resumed = forecast(plan(config, "canny", 8), COSTS)[0]
    assert resumed.seconds == 3 + 50 * 2 + 2 * 0.5 + 1 * 7 + 1 * 11


def test_mean_interval_is_the_t_interval() -> None:
    values = [0.31, 0.35, 0.30, 0.38]
    expected = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert mean_interval(values) == pytest.approx((np.mean(values), *expected, 4))
    assert math.isnan(mean_interval([0.3]).ci_low)
    two = mean_interval([0.0, 1.0])
    assert two.ci_high == pytest.approx(0.5 + math.tan(0.475 * math.pi) * 0.5)  # Student with 1 degree is Cauchy


def rows(values: dict[int, list[float]], metric: str = FIDELITY) -> pd.DataFrame:
    found = [
        ("s", "steps", n, seed, 10, 20, 20 / n, 10, metric, v, v - 1, v + 1, 16, f"{n}-{seed}")
        for n, column in values.items()
        for seed, v in enumerate(column)
    ]
    return as_table([dict(zip(COLUMNS, row, strict=True)) for row in found])


def test_paired_differences_drop_what_seeds_share() -> None:
    small, large = [0.10, 0.30, 0.50], [0.15, 0.36, 0.54]
    [found] = differences(rows({100: small, 1000: large}), ("steps",), (FIDELITY,))
    expected = stats.ttest_rel(large, small).confidence_interval()
    assert (found["value"], found["ci_low"], found["ci_high"]) == pytest.approx((0.05, expected.low, expected.high))
    assert found["verdict"] == "more with more images"
    apart = size_rows(rows({100: small, 1000: large}), ("steps",), (FIDELITY,))
    assert apart[0]["ci_high"] > apart[1]["ci_low"]  # unpaired, the two could not be told apart
    [missing] = differences(rows({100: small, 1000: large[:2]}), ("steps",), (FIDELITY,))
    assert missing["n"] == 2


def test_verdicts() -> None:
    assert verdict(Interval(0.1, -0.1, 0.3, 3), 1.0) == "within the noise of seeds"
    assert verdict(Interval(0.01, 0.005, 0.015, 3), 1.0) == "below 1.3%: inconclusive"
    assert verdict(Interval(-0.1, -0.2, -0.05, 3), 1.0) == "less with more images"
    assert "one seed" in verdict(Interval(0.1, math.nan, math.nan, 1), 1.0)


def test_convergence_is_averaged_only_where_all_runs_converged() -> None:
    table = rows({100: [50.0, math.nan, 70.0], 1000: [40.0, 50.0, 60.0]}, "convergence_step")
    small, large = convergences(table, ("steps",))
    assert (small["converged"], small["runs"], small["value"]) == (2, 3, 60.0)
    assert math.isnan(small["ci_low"])
    assert (large["converged"], large["value"]) == (3, 50.0)
    assert large["ci_low"] == pytest.approx(mean_interval([40, 50, 60]).ci_low)


@pytest.mark.parametrize("exponent", [0.1, 0.5, 1.5])
def test_a_power_law_is_found_again(exponent: float) -> None:
    truth = PowerLaw(0.8, 0.2, exponent, 20_000)
    sizes = np.array([500, 1000, 5000, 20_000])
    found = fit_power_law(sizes, 0.8 - 0.2 * (sizes / 20_000) ** -exponent)
    assert found == pytest.approx(truth, rel=1e-3)
    assert truth.images(0.8 - 0.2 * 4**-exponent) == pytest.approx(80_000)
    assert found.images(0.8 + 1e-3) == math.inf


def panel(noise: float, seeds: int = 4, span: float = 0.2) -> pd.DataFrame:
    sizes = np.array([500, 1000, 5000, 20_000])
    rng = np.random.default_rng(5)
    curve = 0.8 - span * (sizes / 20_000) ** -0.3
    return pd.DataFrame(curve + noise * rng.standard_normal((seeds, 4)), columns=sizes)


def test_an_estimate_in_words() -> None:
    found = estimate(panel(0.003), "steps", FIDELITY, target=0.65)
    assert found.images is not None
    rounded = f"{float(f'{found.images:.3g}'):,.0f}"
    assert f"- equal steps: 0.650 takes {rounded} images [" in words.estimate_text(found.as_dict())
    above = estimate(panel(0.003), "steps", FIDELITY, target=2.0).as_dict()
    assert "2.000 lies above the fitted ceiling [no bound, no bound]" in words.estimate_text(above)


def test_how_many_more_images_has_an_interval_or_a_reason() -> None:
    found = estimate(panel(0.003), "steps", FIDELITY, target=0.65)
    truth = 20_000 * (0.15 / 0.2) ** (-1 / 0.3)
    assert found.images is not None
    assert found.ci_low is not None
    assert found.ci_high is not None
    assert found.ci_low < truth < found.ci_high
    assert found.ci_low <= found.images <= found.ci_high
    assert found == estimate(panel(0.003), "steps", FIDELITY, target=0.65)
    assert estimate(panel(0.003), "steps", FIDELITY, target=2.0).as_dict()["images"] == "inf"
    assert "too few to say: 2 complete seeds" in estimate(panel(0.003, 2), "steps", FIDELITY).reason
    assert "2 sizes" in estimate(panel(0.003)[[500, 1000]], "steps", FIDELITY).reason
    assert "no growth" in estimate(panel(0.05, span=0.0), "steps", FIDELITY).reason
    default = estimate(panel(0.0), "steps", FIDELITY)
    assert default.target == pytest.approx(1.1 * 0.6)
