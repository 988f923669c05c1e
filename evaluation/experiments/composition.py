"""Two ControlNets at once: what does each lose in the other's company?"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from evaluation.experiments.base import Experiment, Outcome, by_seed, scored
from evaluation.experiments.cells import Cell, Data, Scoring
from evaluation.experiments.config import ExperimentConfig
from evaluation.experiments.contrasts import against, contrast_findings, contrast_grid
from evaluation.experiments.figure import draw_lines
from evaluation.experiments.words import means

PARTNER = "palette"
PLAN = """
Outcome: fidelity to the first condition's map (F1 at 2 px for edges), scored by cnlab-eval on the same samples and
noise. A net for edges alone, and together with a net for palettes of the same seed, once with weights 1 and 1, once
.7 and .7. Each pair less the net alone, paired t by training seed, Holm over the two. Nets are trained apart, as in
the ControlNet paper (section 3.4), whose pictures add their outputs without weights.
"""


def scorings(config: ExperimentConfig) -> tuple[Scoring, ...]:
    """Alone, with its partner, with its partner at less weight."""
    nets = ("--control", "{run}", "{partner}", "--model", "{model}", "--dataset", "{dataset}")
    pair = (*nets, "--condition", config.condition, PARTNER, "--recipe.strength")
    return (Scoring("alone"), Scoring("both", (*pair, "1", "1")), Scoring("both .7", (*pair, ".7", ".7")))


def cells(config: ExperimentConfig) -> list[Cell]:
    """A net of each condition a seed, on the same images."""
    data, other = (
        Data(config.source, 4096, names, image_size=config.image_size)
        for names in ((config.condition, PARTNER), (PARTNER, config.condition))
    )
    return [
        Cell(
            data, n, seed, steps, config.batch, config.model,
            partner=Cell(other, n, seed, steps, config.batch, config.model),
        )
        for seed in range(config.seeds or 3)
        for steps in config.steps or (400,)
        for n in config.numbers or (1024,)
    ]  # fmt: skip


def analyse(table: pd.DataFrame) -> Outcome:
    """See `PLAN`."""
    rows = scored(table)
    wide = by_seed(rows, "scoring") if len(rows) else pd.DataFrame()
    contrasts = against(wide, "alone") if "alone" in wide else {}
    findings = contrast_findings("company", contrasts, "With a second ControlNet, less alone")
    return Outcome(findings, [means(table, ["scoring"]), contrast_grid("Less alone", contrasts)])


def draw(table: pd.DataFrame, path: Path) -> None:
    """Fidelity alone and in company."""
    rows = scored(table)
    if len(rows):
        draw_lines([("fidelity", rows)], "scoring", "subset_size", path, "ControlNets")


EXPERIMENT = Experiment(
    "composition", "What does a ControlNet lose beside another?", PLAN,
    "ee5e163998cec4740abc75d7368689f7c11bc06e6fa49628211b8accc906b72d",
    cells, analyse, draw, scorings, ("alone", "both"),
)  # fmt: skip
