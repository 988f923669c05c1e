from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import integrate, stats
from scipy.special import expit

from pipeline.contract.errors import CnlabError
from trainer.convergence.curves import draw
from trainer.convergence.detect import Curve, detect, gap_curve
from trainer.convergence.rise import (
    EXPONENTIAL,
    REACH,
    candidates,
    independent_points,
    least_squares,
    log_bayes_factor,
    posterior,
)

STEPS = 100 * np.arange(1, 31)


def sudden(
    rng: np.random.Generator, points: int = 30, jump: float = 10.0, place: float = 0.5
) -> tuple[np.ndarray, ...]:
    steps = 100.0 * np.arange(1, points + 1)
    middle = (place + rng.uniform(-0.5, 0.5) / points) * steps[-1]
    return steps, jump * (steps > middle) + rng.normal(size=points), middle


# ------------------------------------------------------------------------------------------------ closed forms


@pytest.mark.parametrize("points", [8, 12, 50, 200])
@pytest.mark.parametrize("after", [0.4, 0.7])
def test_a_noise_free_step_is_found_between_its_two_points(points: int, after: float) -> None:
    steps = 100 * np.arange(1, points + 1)
    k = round(after * points)
    found = detect(steps, np.where(np.arange(points) < k, 0.1, 0.6))
    assert found.converged, found.reason
    assert found.step == (steps[k - 1] + steps[k]) / 2
    assert found.interval is not None
    assert steps[k - 1] <= found.interval[0] < found.interval[1] <= steps[k]
    assert found.before == pytest.approx(0.1, abs=0.01)
    assert found.after == pytest.approx(0.6, abs=0.01)
    assert found.sudden
    assert found.width == 0


@pytest.mark.parametrize(("width", "is_sudden"), [(150, True), (1200, False)])
def test_a_noise_free_logistic_has_its_midpoint_and_width(width: float, is_sudden: bool) -> None:
    steps = 100.0 * np.arange(0, 51)
    found = detect(steps, 1 / (1 + 81 ** -((steps - 2330) / width)))
    assert found.step == pytest.approx(2330, abs=25)
    assert found.width == pytest.approx(width, rel=0.5)
    assert found.onset == pytest.approx(2330 - width / 2, abs=0.25 * width + 50)
    assert found.sudden is is_sudden


def test_shapes_reach_a_tenth_half_and_nine_tenths_where_they_say() -> None:
    low, high = REACH["exponential"]
    rise = [1 - np.exp(-EXPONENTIAL * z - np.log(2)) for z in (low, 0, high)]
    np.testing.assert_allclose(rise, [0.1, 0.5, 0.9])
    assert high - low == pytest.approx(1)
    cells = candidates(STEPS.astype(float))
    assert np.exp(cells.log_prior).sum() == pytest.approx(0.5)
    assert (cells.low < cells.high).all()
    assert cells.columns.min() >= 0
    assert cells.columns.max() <= 1


def test_least_squares_agrees_with_a_general_solver() -> None:
    rng = np.random.default_rng(1)
    y, x, slow, w = rng.normal(size=20), rng.normal(size=(3, 20)), rng.normal(size=(3, 20)), rng.uniform(0.5, 2, 20)
    share = w / w.sum()
    r2, a, h, g = least_squares(y, share, x, slow)
    for k in range(3):
        design = np.stack([np.ones(20), x[k], slow[k]], 1) * np.sqrt(share)[:, None]
        beta, rss, *_ = np.linalg.lstsq(design, y * np.sqrt(share))
        np.testing.assert_allclose([a[k], h[k], g[k]], beta)
        assert r2[k] == pytest.approx(1 - rss[0] / (share @ (y - share @ y) ** 2))


@pytest.mark.parametrize(("n", "p", "r2"), [(8, 1, 0.2), (12, 1, 0.9), (40, 2, 0.5), (100, 1, 0.9999)])
def test_bayes_factor_agrees_with_its_integral(n: int, p: int, r2: float) -> None:
    def of_log_g(u: float) -> float:
        g = np.exp(u)
        log = (n - 1 - p) / 2 * np.log1p(g) - (n - 1) / 2 * np.log1p(g * (1 - r2))
        return float(np.exp(log + stats.invgamma(0.5, scale=n / 2).logpdf(g) + u))

    expected = np.log(integrate.quad(of_log_g, -8, 35, limit=400)[0])
    assert log_bayes_factor(np.array([r2]), p, n)[0] == pytest.approx(expected, abs=0.02)


def test_correlated_residuals_are_worth_fewer_points() -> None:
    assert independent_points(np.tile([1.0, -1.0], 20)) == 40
    assert independent_points(np.repeat([1.0, -1.0], 20)) == pytest.approx(10)


def test_probabilities_of_the_kinds_of_curve_sum_to_one() -> None:
    steps, values, _ = sudden(np.random.default_rng(0))
    found = posterior(steps, values, np.full(30, 1 / 30), candidates(steps))
    assert sum(found.kinds.values()) == pytest.approx(1)
    assert found.weight.sum() == pytest.approx(1)
    assert all(p >= 0 for p in found.kinds.values())


# --------------------------------------------------------------------------------------------------- invariants


def test_scale_and_shift_of_the_values_do_not_matter() -> None:
    steps, values, _ = sudden(np.random.default_rng(2), jump=6)
    plain = detect(steps, values)
    for scale, shift in ((1e-6, 0), (1e5, 0), (1, 40), (0.3, -2)):
        other = detect(steps, scale * values + shift)
        assert (other.converged, other.step, other.interval, other.width) == (
            plain.converged,
            plain.step,
            plain.interval,
            plain.width,
        )
        assert plain.after is not None
        assert other.after == pytest.approx(scale * plain.after + shift)


def test_scale_of_the_steps_scales_the_answer() -> None:
    steps, values, _ = sudden(np.random.default_rng(3))
    a, b = detect(steps, values), detect(7 * steps, values)
    assert a.step is not None
    assert b.step == pytest.approx(7 * a.step, abs=4)
    assert a.interval is not None
    np.testing.assert_allclose(b.interval, 7 * np.array(a.interval), atol=8)
    assert a.probability == pytest.approx(b.probability)


def test_the_same_curve_gives_the_same_verdict_and_json_round_trips() -> None:
    steps, values, _ = sudden(np.random.default_rng(4))
    a, b = detect(list(steps), list(values)), detect(steps, values)
    assert a == b
    assert json.loads(json.dumps(a.as_dict())) == a.as_dict()
    assert json.loads(json.dumps(detect(steps[:3], values[:3]).as_dict()))["step"] is None


def test_a_higher_level_gives_a_wider_interval() -> None:
    steps, values, _ = sudden(np.random.default_rng(5), jump=6)
    narrow, wide = detect(steps, values, level=0.5), detect(steps, values, level=0.99)
    assert narrow.interval is not None
    assert wide.interval is not None
    assert wide.interval[0] <= narrow.interval[0] < narrow.interval[1] <= wide.interval[1]
    assert wide.interval != narrow.interval


# ----------------------------------------------------------------------------------------------- not converged


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0])
def test_a_constant_curve_has_not_converged(value: float) -> None:
    found = detect(STEPS, np.full(30, value))
    assert not found.converged
    assert "never rose" in found.reason


@pytest.mark.parametrize("at", [0, 13, 29])
@pytest.mark.parametrize("size", [10, 100])
def test_one_outlier_is_not_convergence(at: int, size: float) -> None:
    values = np.random.default_rng(6).normal(size=30)
    values[at] += size * (-1 if at == 0 else 1)
    found = detect(STEPS, values)
    assert not found.converged, found
    assert "but for one point" in found.reason


def test_curves_cut_before_or_in_their_rise_have_not_converged() -> None:
    rng = np.random.default_rng(7)
    values = 1 / (1 + 81 ** -((STEPS - 2000) / 800)) + 0.05 * rng.normal(size=30)
    assert detect(STEPS, values).converged
    for last in range(1, 20):  # the midpoint is at the twentieth
        assert not detect(STEPS[:last], values[:last]).converged
    assert "has not levelled off" in detect(STEPS[:20], values[:20]).reason.replace("and not", "and has not")


def test_a_fall_is_not_convergence() -> None:
    steps, values, _ = sudden(np.random.default_rng(8))
    found = detect(steps, -values)
    assert not found.converged
    assert "falls" in found.reason


def test_fidelity_that_falls_has_not_converged() -> None:
    noise, errors = np.random.default_rng(20).normal(size=30), np.ones(30)
    up, down = 20.0 * (STEPS > 850), 20.0 * (STEPS > 2050)
    for given in (errors, None):
        found = detect(STEPS, up - down + noise, given)
        assert not found.converged
        assert "rose at step 85" in found.reason
        assert "fell at 205" in found.reason
    # high from the first point on: by the errors it had risen, and it has not stayed
    falling = 20 - 12 * (STEPS > 1550) + noise
    assert detect(STEPS, 20 + noise, errors).converged
    found = detect(STEPS, falling, errors)
    assert not found.converged
    assert "falls, from 20" in found.reason
    # a lesser fall has not levelled off
    found = detect(STEPS, up - 0.25 * down + noise, errors)
    assert "to 19.7, and fell at 205" in found.reason
    assert not found.converged
    assert detect(STEPS, up + noise, errors).converged


@pytest.mark.parametrize(("parts", "step"), [((12, 8), 850), ((8, 12), 2050)])
def test_two_rises_are_both_named_and_the_greater_dates_the_convergence(parts: tuple[int, int], step: int) -> None:
    noise = np.random.default_rng(21).normal(size=30)
    values = parts[0] * (STEPS > 850) + parts[1] * (STEPS > 2050) + noise
    for errors in (np.ones(30), None):
        found = detect(STEPS, values, errors)
        assert found.converged
        assert "two rises, at steps 85" in found.reason
        assert found.step is not None
        assert abs(found.step - step) <= 50
        assert found.interval is not None
        assert found.interval[0] <= step <= found.interval[1] <= found.interval[0] + 100
        assert found.before == pytest.approx(0, abs=1)
        assert found.after == pytest.approx(20, abs=1)


def test_one_rise_is_never_two() -> None:
    rng = np.random.default_rng(22)
    for width in (1, 300, 600):
        for _ in range(20):
            values = 10 * expit(4.4 * (STEPS - 1500) / width) + rng.normal(size=30)
            assert "two rises" not in detect(STEPS, values, np.ones(30)).reason


def test_a_rise_within_the_errors_or_below_the_least_that_counts_is_refused() -> None:
    values = np.where(STEPS > 1500, 0.1, 0.0) + 0.001 * np.random.default_rng(9).normal(size=30)
    assert detect(STEPS, values, np.full(30, 0.02)).converged
    within = detect(STEPS, values, np.full(30, 0.05))
    assert not within.converged
    assert "within its noise" in within.reason
    assert not detect(STEPS, values, least=0.2).converged
    assert detect(STEPS, values, least=0.05).converged


def test_too_few_points_are_said() -> None:
    for count in range(6):
        found = detect(STEPS[:count], np.arange(count), np.ones(count))
        assert not found.converged
        assert f"{count} points" in found.reason


# ------------------------------------------------------------------------------------- risen before the first point


def test_a_curve_that_had_risen_before_its_first_point_says_so() -> None:
    values = 0.5 + 0.02 * np.random.default_rng(10).normal(size=30)
    found = detect(STEPS, values, np.full(30, 0.02))
    assert found.converged
    assert found.interval == (0, 100)
    assert "already risen" in found.reason
    assert not detect(STEPS, values).converged  # without errors nothing tells it from a floor of 0.5
    assert not detect(STEPS, values, np.full(30, 0.02), floor=0.5).converged
    assert not detect(STEPS, values, np.full(30, 0.02), least=0.6).converged


def test_the_value_at_step_0_is_the_floor() -> None:
    steps = np.concatenate([[0], STEPS])
    flat = 0.3 + 0.02 * np.random.default_rng(11).normal(size=31)
    assert not detect(steps, flat, np.full(31, 0.02)).converged
    found = detect(steps, np.concatenate([[0.0], flat[1:]]), np.full(31, 0.02))
    assert found.converged
    assert found.interval == (0, 100)


# --------------------------------------------------------------------------------------------------------- input


def test_missing_values_are_left_out_and_missing_errors_do_no_harm() -> None:
    steps, values, _ = sudden(np.random.default_rng(12))
    keep = np.ones(30, bool)
    keep[[0, 7, 22]] = False
    holed = np.where(keep, values, np.nan)
    assert detect(steps, holed) == detect(steps[keep], values[keep])
    assert detect(steps, holed).points == 27
    odd = np.ones(30)
    odd[[1, 2, 3]] = [np.nan, 0.0, -1.0]
    assert detect(steps, values, odd) == detect(steps, values, np.ones(30))
    assert detect(steps, values, np.zeros(30)) == detect(steps, values)
    assert not detect(steps, np.full(30, np.nan)).converged


@pytest.mark.parametrize(
    ("steps", "values", "errors", "level", "said"),
    [
        ([1, 2, 3], [0, 1], None, 0.95, "shapes"),
        ([1, 2], [0, 1], [1], 0.95, "shapes"),
        ([[1, 2]], [[0, 1]], None, 0.95, "shapes"),
        ([1, 3, 2], [0, 1, 1], None, 0.95, "increase"),
        ([1, 1, 2], [0, 1, 1], None, 0.95, "increase"),
        ([-1, 1, 2], [0, 1, 1], None, 0.95, "increase"),
        ([1, 2, np.nan], [0, 1, 1], None, 0.95, "increase"),
        ([1, 2, 3], [0, 1, 1], None, 1.0, "level"),
    ],
)
def test_bad_input_is_one_clear_line(steps: list, values: list, errors: list | None, level: float, said: str) -> None:
    with pytest.raises(CnlabError, match=said):
        detect(steps, values, errors, level)


def test_uneven_steps_are_read_in_steps() -> None:
    steps = np.array([100, 200, 300, 400, 500, 1000, 1500, 2000, 2500, 3000, 3100.0])
    found = detect(steps, (steps > 1200).astype(float))
    assert found.step == 1250
    assert found.interval is not None
    assert 1000 <= found.interval[0] < 1030
    assert 1470 < found.interval[1] <= 1500


# --------------------------------------------------------------------------------------------------- simulation


def test_coverage_and_error_on_simulated_steps() -> None:
    rng = np.random.default_rng(13)
    inside, wrong, missed, repeats = 0, [], 0, 200
    for _ in range(repeats):
        steps, values, middle = sudden(rng, jump=6, place=rng.uniform(0.25, 0.75))
        found = detect(steps, values)
        if found.step is None or found.interval is None:
            missed += 1
            continue
        inside += found.interval[0] <= middle <= found.interval[1]
        wrong.append((found.step - middle) / 100)
    assert missed <= 0.15 * repeats
    assert stats.binomtest(inside, len(wrong), 0.95).pvalue > 0.001
    assert np.sqrt(np.mean(np.square(wrong))) < 0.5
    assert abs(np.mean(wrong)) < 0.1


def test_intervals_are_not_needlessly_wide() -> None:
    steps, values, _ = sudden(np.random.default_rng(14), jump=20)
    found = detect(steps, values)
    assert found.interval is not None
    assert found.interval[1] - found.interval[0] <= 100


@pytest.mark.parametrize("correlation", [0.0, 0.5])
@pytest.mark.parametrize("given", [True, False])
def test_false_alarms_on_flat_curves_are_rare(correlation: float, given: bool) -> None:
    rng = np.random.default_rng(15)
    alarms = 0
    for _ in range(150):
        noise = rng.normal(size=40)
        for i in range(1, 40):
            noise[i] = correlation * noise[i - 1] + np.sqrt(1 - correlation**2) * noise[i]
        alarms += detect(np.arange(1, 41), noise, np.ones(40) if given else None, floor=0.0).converged
    assert alarms <= 6


# ------------------------------------------------------------------------------------------------- table and figure


def table(metric: str, arms: dict[str, list[float]], half: float = 0.1, n: int = 16) -> pd.DataFrame:
    rows = [
        {"step": 100 * (i + 1), "images": 1600, "metric": metric, "arm": arm, "value": v, "ci_low": v - half, "n": n}
        | {"ci_high": v + half}
        for arm, values in arms.items()
        for i, v in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_the_gap_is_true_minus_shuffled_fidelity_with_errors_in_quadrature() -> None:
    losses = table("loss", {"true": [0.3, 0.2], "shuffled": [0.3, 0.35], "none": [0.3, 0.3]})
    fidelity = table("fidelity", {"shuffled": [0.2, 0.2, 0.1], "true": [0.2, 0.7, 0.9]})
    both = pd.concat([losses, fidelity]).sample(frac=1, random_state=1)
    curve = gap_curve(both)
    assert curve.name == "fidelity"
    np.testing.assert_array_equal(curve.steps, [100, 200, 300])
    np.testing.assert_allclose(curve.values, [0, 0.5, 0.8])
    np.testing.assert_allclose(curve.errors, np.sqrt(2) * 0.1 / stats.t.ppf(0.975, 15))


def test_without_fidelity_the_gap_is_that_of_the_loss() -> None:
    arms = {"true": [0.3, 0.2], "shuffled": [0.3, 0.35], "none": [0.3, 0.3]}
    curve = gap_curve(table("loss", arms))
    assert (curve.name, curve.errors) == ("loss_gap", None)
    np.testing.assert_allclose(curve.values, [0, 0.15])
    paired = pd.concat([table("loss", arms), table("loss", {"gap": [0.0, 0.15]}, half=0.01)])
    np.testing.assert_allclose(gap_curve(paired).errors, 0.01 / stats.t.ppf(0.975, 15))
    with pytest.raises(CnlabError, match="shuffled"):
        gap_curve(table("loss", {"true": [0.1]}))


def test_steps_that_only_one_arm_has_are_left_out_and_a_repeated_row_counts_once() -> None:
    rows = pd.concat([table("fidelity", {"true": [0.1, 0.6, 0.7], "shuffled": [0.1, 0.1]})] * 2)
    np.testing.assert_array_equal(gap_curve(rows).steps, [100, 200])


def test_the_figure_is_written_whole_with_a_mark_for_each_run(tmp_path: Path) -> None:
    rng = np.random.default_rng(16)
    runs = {}
    for seed in (1, 2):
        steps, values, _ = sudden(rng)
        curve = Curve(steps, values, np.ones(30), "fidelity")
        runs[f"seed {seed}"] = (curve, detect(*curve[:3]))
    flat = Curve(STEPS, np.zeros(30), None, "fidelity")
    runs["flat"] = (flat, detect(*flat[:3]))
    draw(runs, tmp_path / "a.png")
    draw({"flat": runs["flat"]}, tmp_path / "b.png")
    with Image.open(tmp_path / "a.png") as a, Image.open(tmp_path / "b.png") as b:
        pixels, few = np.asarray(a.convert("RGB")), np.asarray(b.convert("RGB"))
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        assert (pixels == colour).all(-1).sum() > 200
    assert not (few == (0xD5, 0x5E, 0x00)).all(-1).any()
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["a.png", "b.png"]


def test_verdict_on_runs_and_their_picture(tmp_path: Path) -> None:

    from trainer.convergence.verdict import VerdictConfig, verdict
    from trainer.run_folder import COLUMNS

    rng = np.random.default_rng(0)
    for name, rise in (("learns", 0.5), ("does-not", 0.0)):
        rows = [
            (
                step,
                step,
                "fidelity",
                "gap",
                value := rise * (step > 120) + 0.01 * rng.normal(),
                value - 0.02,
                value + 0.02,
                8,
            )
            for step in range(0, 400, 20)
        ]
        (tmp_path / name).mkdir()
        pd.DataFrame(rows, columns=list(COLUMNS)).to_parquet(tmp_path / name / "validation.parquet")
    runs = (tmp_path / "learns", tmp_path / "does-not")
    lines = verdict(VerdictConfig(runs, tmp_path / "curves.png"))
    assert lines[0].startswith("learns: converged suddenly at step 13")
    assert lines[1].startswith("does-not: not converged")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 400
        alone = picture.height
    growth = 0.1 / (1 + np.exp(-(np.arange(0, 400, 20) - 130) / 5))  # 1e-12 at first: seen on a logarithmic scale alone
    losses = [(s, s, "loss", "gap", g, g, g, 8) for s, g in zip(range(0, 400, 20), growth, strict=True)]
    table = pd.concat([pd.read_parquet(runs[0] / "validation.parquet"), pd.DataFrame(losses, columns=list(COLUMNS))])
    table.to_parquet(runs[0] / "validation.parquet")
    assert verdict(VerdictConfig(runs, tmp_path / "both.png")) == lines
    with Image.open(tmp_path / "both.png") as picture:
        lower = np.asarray(picture.convert("RGB"))[picture.height * 2 // 3 :]
        assert picture.height > 1.4 * alone
        assert (lower == (0x00, 0x72, 0xB2)).all(-1).sum() > 200
    with pytest.raises(CnlabError, match=r"no validation\.parquet"):
        verdict(VerdictConfig((tmp_path,)))
    with pytest.raises(CnlabError, match="which runs"):
        verdict(VerdictConfig(()))
