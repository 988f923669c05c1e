"""Steps and their intervals: closed forms, invariants, inputs, simulated error."""

from __future__ import annotations

import json

import numpy as np
import pytest
from convergence_curves import sudden
from scipy import stats

from pipeline.contract.errors import CnlabError
from trainer.convergence.detect import detect


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
@pytest.mark.slow
def test_false_alarms_on_flat_curves_are_rare(correlation: float, given: bool) -> None:
    rng = np.random.default_rng(15)
    alarms = 0
    for _ in range(150):
        noise = rng.normal(size=40)
        for i in range(1, 40):
            noise[i] = correlation * noise[i - 1] + np.sqrt(1 - correlation**2) * noise[i]
        alarms += detect(np.arange(1, 41), noise, np.ones(40) if given else None, floor=0.0).converged
    assert alarms <= 6
