"""Coverage by simulation: a few cells always, the whole table of docs/evaluation-intervals.md as a proof."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from benchmarks.intervals import Case, coverage, mean_cases, seed_cases, set_cases

#: Cells of the table that lie outside the target, as it says, with the reason beside them there.
KNOWN = {
    ("mean (BCa)", "exponential", "16"), ("mean (BCa)", "Student, 3 degrees", "16"),
    ("mean over seeds (t)", "exponential", "3"), ("mean over seeds (t)", "exponential", "5"),
}  # fmt: skip


def pools() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    base = rng.gamma(0.5, size=(300, 64))
    return base, base + rng.gamma(0.4, 0.3, base.shape), base + rng.gamma(0.3, 0.4, base.shape)


def outside(cases: Iterable[Case], low: float = 0.93, high: float = 0.985) -> list[tuple[str, str, str, float]]:
    """Cells beyond the target by more than three binomial errors."""
    found = []
    for case in cases:
        share, error, _ = coverage(case)
        if not low - 3 * error <= share <= high + 3 * error:
            found.append((case.what, case.law, case.n, share))
    return found


@pytest.mark.slow
def test_a_few_cells() -> None:
    sets = [c for c in set_cases(pools(), 40) if c.n == "64, 64" and "Gaussian" in c.law]
    means = [c for c in mean_cases(np.random.default_rng(1).beta(5, 2, 400), 60) if c.n == "64" and "real" in c.law]
    seeds = [c for c in seed_cases(200) if "exponential" not in c.law]
    assert len(sets) == 3
    assert outside([*sets, *means, *seeds]) == []


@pytest.mark.proof
@pytest.mark.timeout(3600)  # a quarter of an hour on a quiet core
def test_the_whole_table() -> None:
    scores = np.random.default_rng(1).beta(5, 2, 400)
    cells = outside([*mean_cases(scores, 1000), *set_cases(pools(), 200), *seed_cases(1000)])
    assert [c for c in cells if c[:3] not in KNOWN] == []
