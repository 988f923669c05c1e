"""Learning rate as a function of the step alone, so that resuming needs no scheduler state."""

from __future__ import annotations

import math

FALL = 0.2  # share of the steps in which a "trapezoid" falls


def fall_start(total: int) -> int:
    """The step from which the rate of a "trapezoid" of ``total`` steps falls."""
    return total - round(FALL * total)


def learning_rate(step: int, peak: float, warmup: int, total: int, kind: str = "constant") -> float:
    """Rate for step ``step`` (from 0): linear warm-up to ``peak``, then one of three kinds.

    "constant"; "cosine", to ``peak`` / 20; "trapezoid", constant and in the last fifth of the steps a line to zero, as
    good as a cosine of the same length (Hägele et al., NeurIPS 2024), and what came before the fall serves longer runs.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    if kind == "constant":
        return peak
    if kind == "trapezoid":
        return peak * min((total - step) / max(total - fall_start(total), 1), 1.0)
    x = min((step - warmup) / max(total - warmup, 1), 1.0)
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * x)))
