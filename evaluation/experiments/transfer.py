"""A ControlNet on another base model than the one it was trained on."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from evaluation.experiments.base import Experiment, Outcome, by_seed, final, metrics_of, scored
from evaluation.experiments.cells import Cell, Data, Scoring
from evaluation.experiments.config import ExperimentConfig
from evaluation.experiments.contrasts import against, contrast_findings, contrast_grid
from evaluation.experiments.figure import draw_lines
from evaluation.experiments.words import means
from pipeline.contract.errors import CnlabError

PLAN = """
Outcome: fidelity (F1 at 2 px for edges), scored by cnlab-eval on the same samples and noise. A net is sampled with
the base model it was trained on and with another one of its kind, without any further training. Other less own,
paired t by training seed. CLIP score and distances are described, not tested: they tell the base models apart, not
the transfer.
"""


def scorings(config: ExperimentConfig) -> tuple[Scoring, ...]:
    """With its own base model and with the other."""
    return (Scoring("own"), Scoring("other", ("--model", config.other)))


def cells(config: ExperimentConfig) -> list[Cell]:
    """One net a size and seed. Raises CnlabError without another base model."""
    if not config.other:
        raise CnlabError("transfer needs another base model of the same kind: give --other NAME, a folder or hub name")
    data = Data(config.source, 4096, (config.condition,), image_size=config.image_size)
    return [
        Cell(data, n, seed, steps, config.batch, config.model)
        for seed in range(config.seeds or 3)
        for steps in config.steps or (400,)
        for n in config.numbers or (1024,)
    ]


def analyse(table: pd.DataFrame) -> Outcome:
    """See `PLAN`."""
    rows = scored(table)
    wide = by_seed(rows, "scoring") if len(rows) else pd.DataFrame()
    contrasts = against(wide, "own") if "own" in wide else {}
    findings = contrast_findings("transfer", contrasts, "On another base model, less on its own")
    return Outcome(findings, [means(table, ["subset_size", "scoring"]), contrast_grid("Less its own model", contrasts)])


def draw(table: pd.DataFrame, path: Path) -> None:
    """Each scored metric on both models."""
    panels = [(m, final(table, m)) for m in metrics_of(table) if "/" not in m][:3]
    if panels:
        draw_lines(panels, "scoring", "subset_size", path, "base model")


EXPERIMENT = Experiment(
    "transfer", "Does a ControlNet serve another base model?", PLAN,
    "b46330b3e29b82c6587d7b0fb5260d6591ad0fb39bcbdae58bc249e11163864a",
    cells, analyse, draw, scorings, ("own", "other"),
)  # fmt: skip
