from __future__ import annotations

import numpy as np
import pytest
import torch

from evaluation.metrics.kernel import kernel_distance, kernel_estimate
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


def test_symmetric_and_blind_to_order() -> None:
    x, y = RNG(0).normal(size=(30, 6)), RNG(1).normal(0.4, 1, size=(25, 6))
    assert kernel_distance(x, y) == pytest.approx(kernel_distance(y, x), rel=1e-12)
    assert kernel_distance(RNG(2).permutation(x), y) == pytest.approx(kernel_distance(x, y), rel=1e-12)


def test_no_bias_at_equal_laws() -> None:
    values = [kernel_distance(*RNG(seed).normal(size=(2, 20, 4))) for seed in range(300)]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 3.5 * error
    assert min(values) < 0 < max(values)


def test_subsets_estimate_the_same_number() -> None:
    x, y = RNG(0).normal(size=(400, 4)), RNG(1).normal(0.5, 1, size=(400, 4))
    whole = kernel_distance(x, y)
    drawn = kernel_distance(x, y, subsets=100, subset_size=100)
    assert drawn == pytest.approx(whole, rel=0.1)
    assert drawn == kernel_distance(x, y, subsets=100, subset_size=100)
    assert drawn != kernel_distance(x, y, subsets=100, subset_size=100, seed=1)


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
