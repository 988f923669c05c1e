"""Learning rate as a function of the step alone, so that resuming needs no scheduler state."""

from __future__ import annotations

import math


def learning_rate(step: int, peak: float, warmup: int, total: int, kind: str = "constant") -> float:
    """Rate for step ``step`` (from 0): linear warm-up to ``peak``, then constant or a cosine to ``peak`` / 20."""
    if step < warmup:
        return peak * (step + 1) / warmup
    if kind == "constant":
        return peak
    x = min((step - warmup) / max(total - warmup, 1), 1.0)
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * x)))
