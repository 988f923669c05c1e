"""Do the soft maps of a finished set give the picture away? Measured on its first training samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.conditions import REGISTRY, get_condition
from pipeline.contract.dataset import first_rows
from pipeline.contract.pictures import decode_image
from pipeline.screen.leak import leak

SAMPLES = 48


def soft_leaks(folder: Path, shards: list[dict[str, Any]], conditions: tuple[str, ...]) -> dict[str, Any]:
    """Condition -> ``{r2, ci_low, ci_high, n}`` for every soft one (`pipeline.screen.leak`)."""
    leaks = {}
    for name in conditions:
        if name not in REGISTRY or not get_condition(name).soft:
            continue
        rows = first_rows(folder, shards, "train", SAMPLES, ["image", name])
        if len(rows) < 4:  # nothing to fit on
            continue
        images = np.stack([decode_image(row["image"]["bytes"]) for row in rows])
        maps = np.stack([decode_image(row[name]["bytes"])[..., 0] for row in rows])
        report = leak(images, maps)
        low, high = report.interval
        leaks[name] = {"r2": report.r2, "ci_low": low, "ci_high": high, "n": report.n}
    return leaks
