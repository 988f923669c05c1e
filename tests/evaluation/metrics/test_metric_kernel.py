from __future__ import annotations

import numpy as np
import pytest
import torch

from evaluation.metrics import kernel
from evaluation.metrics.kernel import kernel_difference, kernel_distance, kernel_estimate, kernel_set_distance
from pipeline.contract.errors import CnlabError

RNG = np.random.default_rng


def test_closed_form_by_hand() -> None:
    # x = (0), (1); y = (1), (2): k = (x y + 1)^3. within x: k(0,1) = 1; within y: k(1,2) = 27; cross: 1, 1, 8, 27
    assert kernel_distance([[0.0], [1.0]], [[1.0], [2.0]]) == pytest.approx(1000 * (1 + 27 - 2 * 37 / 4))


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save:UserWarning")
def test_torchmetrics_agrees() -> None:
    from torchmetrics.image.kid import KernelInceptionDistance

    class Flat(torch.nn.Module):
        num_features = 12

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1).double() / 255

    pictures = RNG(4).integers(0, 256, (2, 40, 3, 2, 2), dtype=np.uint8)
    metric = KernelInceptionDistance(feature=Flat(), subsets=2, subset_size=40, normalize=False)
    metric.update(torch.from_numpy(pictures[0]), real=True)
    metric.update(torch.from_numpy(pictures[1]), real=False)
    mean, _ = metric.compute()
    ours = kernel_distance(pictures[0].reshape(40, -1) / 255, pictures[1].reshape(40, -1) / 255)
    assert ours == pytest.approx(1000 * float(mean), rel=1e-5)


def test_torch_fidelity_agrees() -> None:
    from torch_fidelity.metric_kid import kid_features_to_metric

    x, y = RNG(0).normal(size=(50, 12)), RNG(1).normal(0.3, 1, size=(50, 12))
    theirs = kid_features_to_metric(
        torch.from_numpy(x), torch.from_numpy(y), kid_subsets=1, kid_subset_size=50, verbose=False
    )
    assert kernel_distance(x, y) == pytest.approx(1000 * theirs["kernel_inception_distance_mean"], rel=1e-9)


def test_symmetric_and_blind_to_order() -> None:
    x, y = RNG(0).normal(size=(30, 6)), RNG(1).normal(0.4, 1, size=(25, 6))
    assert kernel_distance(x, y) == pytest.approx(kernel_distance(y, x), rel=1e-12)
    assert kernel_distance(RNG(2).permutation(x), y) == pytest.approx(kernel_distance(x, y), rel=1e-12)


def test_no_bias_at_equal_laws() -> None:
    values = [kernel_distance(*RNG(seed).normal(size=(2, 20, 4))) for seed in range(300)]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 3.5 * error
    assert min(values) < 0 < max(values)


def test_blocks_do_not_change_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = RNG(0).normal(size=(50, 4)), RNG(1).normal(0.5, 1, size=(40, 4))
    whole = kernel_set_distance(x, y)
    monkeypatch.setattr(kernel, "BLOCK", 7)
    parts = kernel_set_distance(x, y)
    assert parts.value == pytest.approx(whole.value, rel=1e-12)
    assert parts.of_y == pytest.approx(whole.of_y, rel=1e-9)


def test_jackknife_values_are_those_of_deleting_one() -> None:
    x, y = RNG(0).normal(size=(12, 3)), RNG(1).normal(0.5, 1, size=(9, 3))
    distance = kernel_set_distance(x, y)
    without = np.array([kernel_distance(np.delete(x, i, axis=0), y) for i in range(12)])
    assert distance.of_x == pytest.approx(11 * (without.mean() - without), rel=1e-8)
    without = np.array([kernel_distance(x, np.delete(y, i, axis=0)) for i in range(9)])
    assert distance.of_y == pytest.approx(8 * (without.mean() - without), rel=1e-8)


def test_a_difference_drops_what_both_share() -> None:
    x, y = RNG(0).normal(size=(2, 100, 6))
    near, far = y + 0.2 * RNG(1).normal(size=y.shape), y + 0.3 * RNG(2).normal(size=y.shape)
    difference, apart = kernel_difference(near, far, x), kernel_estimate(near, x)
    assert difference.value == pytest.approx(kernel_distance(near, x) - kernel_distance(far, x))
    assert difference.high is not None
    assert apart.high is not None
    assert difference.high - difference.value < 0.6 * (apart.high - apart.value)
    assert difference.p is not None


def test_grows_with_noise() -> None:
    x, y = RNG(0).normal(size=(2, 80, 6))
    values = [kernel_distance(x, y + shift) for shift in (0.0, 0.3, 0.6, 1.2)]
    assert values == sorted(values)


def test_interval_has_the_spread_of_fresh_samples() -> None:
    def draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = RNG(seed)
        return rng.normal(size=(80, 5)), rng.normal(0.5, 1.0, size=(80, 5))

    estimates = [kernel_estimate(*draw(seed)) for seed in range(40)]
    spread = np.std([e.value for e in estimates])
    claimed = np.mean([(e.high - e.low) / (2 * 1.96) for e in estimates if e.low is not None and e.high is not None])
    assert 0.7 < claimed / spread < 1.5
    assert estimates[0] == kernel_estimate(*draw(0))
    assert estimates[0].value == pytest.approx(kernel_distance(*draw(0)))


def test_dimensions_must_agree() -> None:
    with pytest.raises(CnlabError, match="6 and 5 dimensions"):
        kernel_distance(np.zeros((4, 6)), np.zeros((4, 5)))
