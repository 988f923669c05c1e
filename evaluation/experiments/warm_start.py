"""What is a start from another condition's ControlNet worth in images?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from evaluation.experiments.base import PRIMARY, TITLES, Experiment, Finding, Outcome, by_seed, final
from evaluation.experiments.cells import Cell, Data
from evaluation.experiments.config import ExperimentConfig
from evaluation.experiments.contrasts import against, contrast_findings, contrast_grid
from evaluation.experiments.figure import draw_lines
from evaluation.experiments.words import images, means
from evaluation.metrics.curves import crossing

SIZES = (4, 16, 64, 256, 1024)
FROM, FROM_SIZE, FROM_SEED = "softedge", 1024, 100
STEPS = 100
PLAN = """
Primary outcome and unit of chance as in the size experiment, after 100 steps. A warm start copies a ControlNet that
was trained on 1,024 soft-edge maps for 400 steps; a cold one starts from the prior's encoder and zero convolutions.
1. Warm less cold at each n, paired t by seed, Holm over sizes.
2. What is it worth? The cold n that reaches what 16 warm images reach, by inversion of the t test over seeds, linear
in log n; outside the measured sizes "not known".
"""


def cells(config: ExperimentConfig) -> list[Cell]:
    """Cold and warm at every size, one seed of all first; the start is trained once."""
    data = Data(config.source, 4096, (config.condition,), image_size=config.image_size)
    start = Cell(Data(config.source, FROM_SIZE, (FROM,)), FROM_SIZE, FROM_SEED, 400, config.batch, config.model)
    return [
        Cell(data, n, seed, steps, config.batch, config.model, init=init)
        for seed in range(config.seeds or 3)
        for steps in config.steps or (STEPS,)
        for n in config.numbers or SIZES
        for init in (None, start)
    ]


def analyse(table: pd.DataFrame) -> Outcome:
    """See `PLAN`."""
    rows, contrasts = _named(final(table, PRIMARY)), {}
    for size, own in rows.groupby("subset_size"):
        wide = by_seed(own, "start")
        if {"cold", "warm"} <= set(wide):
            contrasts[f"n = {size}"] = against(wide, "cold")["warm"] if len(wide.dropna()) else None
    known = {name: d for name, d in contrasts.items() if d is not None}
    findings = contrast_findings("warm", known, "Warm less cold start")
    findings += _worth(rows)
    return Outcome(findings, [means(table, ["subset_size", "init"]), contrast_grid("Warm less cold", known)])


def _worth(rows: pd.DataFrame) -> list[Finding]:
    cold = by_seed(rows[rows["start"] == "cold"], "subset_size").dropna()
    warm = by_seed(rows[(rows["start"] == "warm") & (rows["subset_size"] == 16)], "subset_size")
    both = cold.join(warm.iloc[:, 0].rename("warm"), how="inner").dropna() if warm.shape[1] else cold.iloc[:0]
    if len(both) < 2 or cold.shape[1] < 2:
        return [Finding("worth", "Too few seeds to say what a warm start is worth in images.")]
    size = crossing(cold.columns.to_numpy(float), both[cold.columns].to_numpy() - both[["warm"]].to_numpy())
    return [
        Finding("worth", f"16 images with a warm start are worth {images(size)} from cold.", {"images": size.value})
    ]


def _named(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(start=np.where(rows["init"] == "", "cold", "warm"))


def draw(table: pd.DataFrame, path: Path) -> None:
    """Fidelity against size, a line a start."""
    draw_lines([(TITLES[PRIMARY], _named(final(table, PRIMARY)))], "subset_size", "start", path, "images", np.log2)


EXPERIMENT = Experiment(
    "warm-start", "What is a start from another ControlNet worth?", PLAN,
    "d137c87dd739ac89e6e02a6c07b98ad81ba0a174b9551e38bce9df417a299828",
    cells, analyse, draw,
)  # fmt: skip
