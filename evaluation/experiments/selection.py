"""Which images? Selections of equal n out of one pool."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from evaluation.experiments.base import PRIMARY, TITLES, Experiment, Finding, Outcome, by_seed, final
from evaluation.experiments.cells import Cell, Data
from evaluation.experiments.config import ExperimentConfig
from evaluation.experiments.contrasts import against, contrast_findings, contrast_grid
from evaluation.experiments.figure import draw_lines
from evaluation.experiments.words import means

RANDOM = "rank"
SELECTIONS = ("", "clusters", "sharpness:desc", "contrast:desc")
SIZES = (16, 64, 256)
PLAN = """
Primary outcome and unit of chance as in the size experiment. Selections of equal n out of one pool of 4,096; the
baseline is the order of ranks, which is random. For every n each selection less the baseline, paired t by seed, Holm
over all selections and sizes. A selection "helps" where its difference is positive after Holm.
"""


def cells(config: ExperimentConfig) -> list[Cell]:
    """Every selection of every size, one seed of all first."""
    data = Data(config.source, 4096, (config.condition,), image_size=config.image_size)
    return [
        Cell(data, n, seed, steps, config.batch, config.model, selection=selection)
        for seed in range(config.seeds or 3)
        for steps in config.steps or (400,)
        for n in config.numbers or SIZES
        for selection in SELECTIONS
    ]


def analyse(table: pd.DataFrame) -> Outcome:
    """See `PLAN`."""
    contrasts, grids = {}, [means(table, ["subset_size", "selection"])]
    rows = _named(final(table, PRIMARY))
    for size, own in rows.groupby("subset_size"):
        wide = by_seed(own, "selection")
        if RANDOM in wide:
            contrasts.update({f"{name}, n = {size}": d for name, d in against(wide, RANDOM).items()})
    findings: list[Finding] = contrast_findings("selection", contrasts, "Selected against random images of equal n")
    grids.append(contrast_grid("Against random images", contrasts))
    return Outcome(findings, [*grids])


def _named(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(selection=rows["selection"].replace("", RANDOM))


def draw(table: pd.DataFrame, path: Path) -> None:
    """Fidelity against size, a line a selection."""
    draw_lines([(TITLES[PRIMARY], _named(final(table, PRIMARY)))], "subset_size", "selection", path, "images", np.log2)


EXPERIMENT = Experiment(
    "selection", "Which images should a ControlNet see?", PLAN,
    "bcb844b10c233c5ed1b0813219e2c2c9a504e165e24fd2f9081e4ee140e85762",
    cells, analyse, draw,
)  # fmt: skip
