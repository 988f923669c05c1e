"""The verdict on convergence in words; free of torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def verdict_words(record: Mapping[str, Any]) -> str:
    """``convergence.json`` in one line: the reason, and the interval of the step where there is one; "" for nothing."""
    reason, ends = str(record.get("reason", "")), list(record.get("interval") or [])
    if len(ends) != 2 or not all(isinstance(end, int | float) and math.isfinite(end) for end in ends):
        return reason
    return f"{reason}; {100 * float(record.get('level', 0.95)):g} % interval {ends[0]:g} to {ends[1]:g}"
