from __future__ import annotations

import numpy as np
import pytest
import torch

from evaluation.metrics.frechet import frechet_difference, frechet_distance, frechet_estimate, frechet_set_distance
from pipeline.contract.errors import CnlabError

RNG = np.random.default_rng
#: blobs(60, 50, 16) by `reference`: general eigenvalues in float64, numpy 2.4.6.
PINNED = 15.234379985258062


def blobs(n: int, m: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = RNG(seed)
    x = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) / np.sqrt(d)
    y = rng.normal(0.3, 1.2, size=(m, d)) @ rng.normal(size=(d, d)) / np.sqrt(d)
    return x, y


def reference(x: np.ndarray, y: np.ndarray) -> float:
    """The textbook formula by eigenvalues of the plain product."""
    s, t = np.cov(x.T), np.cov(y.T)
    root = np.sqrt(np.linalg.eigvals(s @ t).astype(complex)).real.sum()
    return float(np.square(x.mean(0) - y.mean(0)).sum() + np.trace(s) + np.trace(t) - 2 * root)


def test_closed_form_in_one_dimension() -> None:
    # |mu - nu|^2 + (s - t)^2; deviations of (0, 2) and (0, 6) are sqrt(2) and sqrt(18)
    assert frechet_distance([[0.0], [2.0]], [[0.0], [6.0]]) == pytest.approx(4 + (np.sqrt(18) - np.sqrt(2)) ** 2)


@pytest.mark.parametrize("n", [12, 80])  # low-rank and full-rank routes
def test_a_pure_shift_costs_its_squared_length(n: int) -> None:
    x, _ = blobs(n, 2, 20)
    shift = RNG(1).normal(size=20)
    assert frechet_distance(x, x + shift) == pytest.approx(shift @ shift, rel=1e-9)


@pytest.mark.parametrize("n", [12, 80])
def test_identity_symmetry_order_and_rotation(n: int) -> None:
    x, y = blobs(n, n + 5, 20)
    value = frechet_distance(x, y)
    turn = np.linalg.qr(RNG(2).normal(size=(20, 20)))[0]
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(y, x) == pytest.approx(value, rel=1e-9)
    assert frechet_distance(RNG(3).permutation(x), y) == pytest.approx(value, rel=1e-9)
    assert frechet_distance(x @ turn + 5, y @ turn + 5) == pytest.approx(value, rel=1e-9)


def test_pinned_value_and_reference() -> None:
    x, y = blobs(60, 50, 16)
    assert frechet_distance(x, y) == pytest.approx(reference(x, y), rel=1e-9)
    assert frechet_distance(x, y) == pytest.approx(PINNED, rel=1e-9)


def test_low_rank_route_agrees_with_the_full_one() -> None:
    x, y = blobs(12, 30, 12)  # min(N, M) = D takes the full route; a zero column more takes the other
    wide = [np.hstack([a, np.zeros((len(a), 1))]) for a in (x, y)]
    assert frechet_distance(*wide) == pytest.approx(frechet_distance(x, y), rel=1e-9)


@pytest.mark.parametrize(("n", "m", "d"), [(30, 40, 60), (60, 80, 6)])  # both routes
def test_jackknife_values_are_the_derivatives_by_the_weights(n: int, m: int, d: int) -> None:
    x, y = blobs(n, m, d)
    distance = frechet_set_distance(x, y)
    for sample in (0, 3):
        twice = frechet_distance(np.vstack([x] * 400 + [x[sample : sample + 1]]), np.vstack([y] * 400))
        once = frechet_distance(np.vstack([x] * 400), np.vstack([y] * 400))
        assert (twice - once) * 400 * n == pytest.approx(distance.of_x[sample], rel=0.15, abs=0.1)
    swapped = frechet_set_distance(y, x)
    assert swapped.of_y == pytest.approx(distance.of_x, rel=1e-6, abs=1e-8)


def test_a_difference_drops_what_both_share() -> None:
    x, y = blobs(120, 120, 10)
    near, far = y + 0.2 * RNG(1).normal(size=y.shape), y + 0.3 * RNG(2).normal(size=y.shape)
    difference = frechet_difference(near, far, x)
    apart = frechet_estimate(near, x)
    assert difference.value == pytest.approx(frechet_distance(near, x) - frechet_distance(far, x))
    assert difference.high is not None
    assert apart.high is not None
    assert difference.high - difference.value < 0.5 * (apart.high - apart.value)
    assert frechet_difference(near, near, x).value == 0


def test_torchmetrics_agrees() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Flat(torch.nn.Module):
        num_features = 12

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1).double()

    pictures = RNG(4).integers(0, 256, (2, 40, 3, 2, 2), dtype=np.uint8)
    metric = FrechetInceptionDistance(feature=Flat(), normalize=False, antialias=False).set_dtype(torch.float64)
    metric.update(torch.from_numpy(pictures[0]), real=True)
    metric.update(torch.from_numpy(pictures[1]), real=False)
    ours = frechet_distance(pictures[0].reshape(40, -1), pictures[1].reshape(40, -1))
    assert ours == pytest.approx(float(metric.compute()), rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(60, 70), (20, 30)])
def test_torch_fidelity_agrees(n: int, m: int) -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    x, y = blobs(n, m, 24)
    statistics = [fid_features_to_statistics(torch.from_numpy(a)) for a in (x, y)]
    theirs = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(x, y) == pytest.approx(theirs, rel=1e-5)


def test_grows_with_noise() -> None:
    x, _ = blobs(60, 2, 16)
    noise = RNG(5).normal(size=x.shape)
    values = [frechet_distance(x, x + level * noise) for level in (0.1, 0.5, 1.0, 2.0)]
    assert values == sorted(values)
    assert values[0] < values[-1] / 10


def test_interval_has_the_spread_of_fresh_samples() -> None:
    def draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = RNG(seed)
        return rng.normal(size=(100, 8)), rng.normal(0.5, 1.0, size=(100, 8))

    estimates = [frechet_estimate(*draw(seed)) for seed in range(40)]
    spread = np.std([e.value for e in estimates])
    claimed = np.mean([(e.high - e.low) / (2 * 1.96) for e in estimates if e.low is not None and e.high is not None])
    assert 0.7 < claimed / spread < 1.6
    assert estimates[0] == frechet_estimate(*draw(0))


def test_two_samples_have_a_value_but_no_interval() -> None:
    found = frechet_estimate([[0.0, 1.0], [2.0, 0.0]], [[0.0, 0.0], [6.0, 1.0]])
    assert found.low is None
    assert found.n == 2


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (np.zeros((1, 3)), np.zeros((4, 3)), "at least 2"),
        (np.zeros((0, 3)), np.zeros((4, 3)), "0 samples"),
        (np.zeros((4, 3)), np.zeros((4, 2)), "3 and 2 dimensions"),
        (np.full((4, 3), np.nan), np.zeros((4, 3)), "sample 0 is not finite"),
        (np.zeros(4), np.zeros(4), "shape"),
    ],
)
def test_bad_features_get_one_line(x: np.ndarray, y: np.ndarray, said: str) -> None:
    with pytest.raises(CnlabError, match=said):
        frechet_distance(x, y)
