"""The posterior of one rise, by closed forms and general solvers."""

from __future__ import annotations

import numpy as np
import pytest
from convergence_curves import STEPS, sudden
from scipy import integrate, stats

from trainer.convergence.rise import (
    EXPONENTIAL,
    REACH,
    candidates,
    independent_points,
    least_squares,
    log_bayes_factor,
    posterior,
)


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
