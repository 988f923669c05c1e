"""Guidance: on which half, and with which weights, should the ControlNet act?"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from evaluation.experiments.base import Experiment, Outcome, by_seed, final, metrics_of, scored
from evaluation.experiments.cells import Cell, Data, Scoring
from evaluation.experiments.config import ExperimentConfig
from evaluation.experiments.contrasts import against, contrast_findings, contrast_grid
from evaluation.experiments.figure import draw_lines
from evaluation.experiments.words import means

MODES = ("both", "none", "paper", "diffusers")
PLAN = """
Outcomes, both named before the data: fidelity (F1 at 2 px for edges) and CLIP score, scored by cnlab-eval on the same
samples and noise. One net a seed, sampled with four weightings of its residuals under classifier-free guidance: on
both halves (diffusers' default), on the conditional half alone with weights 1, with the paper's 64/h, with those of
diffusers' guess mode. Each less "both", paired t by training seed, Holm over the weightings of an outcome.
"""


def scorings(config: ExperimentConfig) -> tuple[Scoring, ...]:
    """The four weightings."""
    return tuple(Scoring(mode, ("--recipe.weighting", mode)) for mode in MODES)


def cells(config: ExperimentConfig) -> list[Cell]:
    """One net a seed; the size experiment's, where it is there."""
    data = Data(config.source, 4096, (config.condition,), image_size=config.image_size)
    return [
        Cell(data, n, seed, steps, config.batch, config.model)
        for seed in range(config.seeds or 3)
        for steps in config.steps or (400,)
        for n in config.numbers or (1024,)
    ]


def analyse(table: pd.DataFrame) -> Outcome:
    """See `PLAN`."""
    findings, grids = [], [means(table, ["scoring"])]
    for name, rows in (("fidelity", scored(table)), ("CLIP score", final(table, "clip_score"))):
        wide = by_seed(rows, "scoring") if len(rows) else pd.DataFrame()
        contrasts = against(wide, "both") if "both" in wide else {}
        findings += contrast_findings(name, contrasts, f"{name}, less both halves")
        grids.append(contrast_grid(f"{name}, less both halves", contrasts))
    return Outcome(findings, grids)


def draw(table: pd.DataFrame, path: Path) -> None:
    """Each scored metric, the weightings side by side."""
    panels = [(m, final(table, m)) for m in metrics_of(table) if "/" not in m][:3]
    if panels:
        draw_lines(panels, "scoring", "subset_size", path, "weighting")


EXPERIMENT = Experiment(
    "weighting", "How should guidance weigh a ControlNet?", PLAN,
    "8f6ca93c49fdee14321f85aef89b1ab624fefff26d117dd3c13df161c78fc6b2",
    cells, analyse, draw, scorings, MODES,
)  # fmt: skip
