"""Validation curves whose change is known, for tests."""

from __future__ import annotations

import numpy as np

STEPS = 100 * np.arange(1, 31)


def sudden(
    rng: np.random.Generator, points: int = 30, jump: float = 10.0, place: float = 0.5
) -> tuple[np.ndarray, ...]:
    """Steps, values with a jump among unit noise, and the place of the jump, drawn within one spacing."""
    steps = 100.0 * np.arange(1, points + 1)
    middle = (place + rng.uniform(-0.5, 0.5) / points) * steps[-1]
    return steps, jump * (steps > middle) + rng.normal(size=points), middle
