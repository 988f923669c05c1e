from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_f1_score

from pipeline.contract.errors import CnlabError
from pipeline.fidelity import edge_f1, other_samples


def line(column: int, size: int = 12) -> np.ndarray:
    edges = np.zeros((1, size, size), dtype=bool)
    edges[:, :, column] = True
    return edges


def brute(x: np.ndarray, y: np.ndarray, radius: float) -> float:
    """Every pair of edge pixels, by the definition."""
    p, q = np.argwhere(x), np.argwhere(y)
    near = np.linalg.norm(p[:, None] - q[None], axis=2) <= radius
    precision, recall = near.any(1).mean(), near.any(0).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize(("shift", "radius", "score"), [(0, 0, 1), (1, 0, 0), (2, 2, 1), (3, 2, 0)])
def test_a_shifted_line_counts_within_the_radius(shift: int, radius: float, score: float) -> None:
    assert edge_f1(line(4), line(4 + shift), radius).tolist() == [score]


def test_half_of_the_edges_found() -> None:
    half = line(4)
    half[:, 6:] = False
    assert edge_f1(half, line(4), 0)[0] == pytest.approx(2 / 3)  # precision 1, recall 1/2


def test_empty_maps() -> None:
    empty = np.zeros((1, 12, 12), dtype=bool)
    assert edge_f1(empty, empty, 2).tolist() == [1]
    assert edge_f1(empty, line(3), 2).tolist() == [0]
    assert edge_f1(line(3), empty, 2).tolist() == [0]


@given(st.integers(0, 10_000), st.floats(0.02, 0.6), st.sampled_from([0, 1, 2, 3]))
def test_agrees_with_all_pairs_and_is_symmetric(seed: int, share: float, radius: float) -> None:
    x, y = np.random.default_rng(seed).random((2, 1, 9, 11)) < share
    x[0, 0, 0] = y[0, 8, 10] = True
    assert edge_f1(x, y, radius)[0] == pytest.approx(brute(x[0], y[0], radius), rel=1e-12)
    assert edge_f1(x, y, radius)[0] == pytest.approx(edge_f1(y, x, radius)[0], rel=1e-12)


def test_zero_radius_is_torchmetrics_f1() -> None:
    x, y = np.random.default_rng(0).random((2, 5, 16, 16)) < 0.3
    theirs = [
        float(binary_f1_score(torch.from_numpy(a).float(), torch.from_numpy(b).long()))
        for a, b in zip(x, y, strict=True)
    ]
    assert edge_f1(x, y, 0) == pytest.approx(theirs, rel=1e-6)


def test_a_wider_radius_never_scores_less() -> None:
    x, y = np.random.default_rng(1).random((2, 6, 20, 20)) < 0.1
    scores = np.array([edge_f1(x, y, radius) for radius in (0, 1, 2, 4)])
    assert (np.diff(scores, axis=0) >= 0).all()


def test_one_sample_at_a_time_is_the_same() -> None:
    x, y = np.random.default_rng(2).random((2, 6, 20, 20)) < 0.1
    alone = np.concatenate([edge_f1(x[i : i + 1], y[i : i + 1], 2) for i in range(6)])
    assert edge_f1(x, y, 2).tolist() == alone.tolist()


@pytest.mark.parametrize(
    ("x", "y", "radius", "said"),
    [
        (line(1), line(1, 10), 0, "cannot be compared"),
        (line(1).astype(np.uint8), line(1), 0, "not bool"),
        (line(1)[0], line(1), 0, "shape"),
        (line(1), line(1), -1, "negative"),
    ],
)
def test_bad_maps_get_one_line(x: np.ndarray, y: np.ndarray, radius: float, said: str) -> None:
    with pytest.raises(CnlabError, match=said):
        edge_f1(x, y, radius)


@pytest.mark.parametrize("n", [2, 3, 17])
def test_other_samples_leave_nobody_their_own_map(n: int) -> None:
    keys = tuple(f"k{i}" for i in range(n))
    other = other_samples(keys)
    assert sorted(other) == list(range(n))
    assert (other != np.arange(n)).all()
    turned = keys[::-1]
    assert {k: keys[other[i]] for i, k in enumerate(keys)} == {
        k: turned[other_samples(turned)[i]] for i, k in enumerate(turned)
    }


def test_other_samples_of_one_is_refused() -> None:
    with pytest.raises(CnlabError, match="two samples"):
        other_samples(("a",))
