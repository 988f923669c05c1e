"""When does a ControlNet begin to fit its own images only, and does that time grow with their number?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from evaluation.experiments.base import Experiment, Finding, Grid, Outcome
from evaluation.experiments.cells import Cell, Data
from evaluation.experiments.config import ExperimentConfig
from evaluation.experiments.figure import draw_lines
from evaluation.experiments.words import means, number
from evaluation.metrics.intervals import seed_interval

SIZES = (4, 16, 64, 256)
STEPS, EVERY = 1600, 40
LOSS = "loss/true"
PLAN = """
Outcome: the turn, the validated step at which a run's held-out loss (true map, fixed noise and timesteps) is lowest;
what it learns afterwards it learns about its own images. A run whose lowest loss is its last is censored and left
out.
1. Does time to memorise grow in proportion to n (2505.17638)? For every seed the slope of log turn on log n over
sizes that are not censored, at least three; mean slope with its t interval over seeds. In proportion: the interval
holds 1 and not 0. A constant learning rate, so that no schedule makes a turn.
2. Described: held-out loss at the end less at the turn, by size.
"""


def cells(config: ExperimentConfig) -> list[Cell]:
    """Every size at a constant rate, validated often, one seed of all first."""
    data = Data(config.source, 4096, (config.condition,), image_size=config.image_size)
    return [
        Cell(data, n, seed, steps, config.batch, config.model, schedule="constant", every=EVERY, pictures=0)
        for seed in range(config.seeds or 3)
        for steps in config.steps or (STEPS,)
        for n in config.numbers or SIZES
    ]


def turns(table: pd.DataFrame) -> pd.DataFrame:
    """A row a run: train_seed, subset_size, turn (step), rise (of the loss after it), censored."""
    rows = table[(table["metric"] == LOSS) & (table["step"] > 0)]
    runs = []
    for (seed, size), own in rows.groupby(["train_seed", "subset_size"]):
        own = own.sort_values("step")
        losses, steps = own["value"].to_numpy(float), own["step"].to_numpy(int)
        at = int(losses.argmin())
        runs.append({
            "train_seed": seed, "order_seed": 0, "subset_size": size, "value": steps[at],
            "rise": losses[-1] - losses[at], "censored": at == len(losses) - 1,
        })  # fmt: skip
    return pd.DataFrame(runs)


def analyse(table: pd.DataFrame) -> Outcome:
    """See `PLAN`."""
    runs = turns(table)
    slopes = []
    for _, own in runs[~runs["censored"]].groupby("train_seed"):
        if len(own) >= 3:
            slopes.append(np.polyfit(np.log(own["subset_size"].to_numpy(float)), np.log(own["value"]), 1)[0])
    listed = []
    for size, own in runs.groupby("subset_size"):
        turn, rise = number(seed_interval(own["value"]), 0), number(seed_interval(own["rise"]), 4)
        listed.append([str(size), turn, rise, str(own["censored"].sum())])
    head = ("images", "step of the lowest held-out loss", "loss at the end less there", "censored")
    grid = Grid("The turn", head, listed)
    return Outcome([_finding(slopes)], [means(table, ["subset_size"]), grid])


def _finding(slopes: list[float]) -> Finding:
    if len(slopes) < 2:
        return Finding("slope", f"Too few to say: {len(slopes)} seeds have three sizes whose held-out loss turns.")
    slope = seed_interval(slopes)
    assert slope.low is not None and slope.high is not None
    verdict = "slower than" if slope.high < 1 else "faster than" if slope.low > 1 else "in proportion to"
    verdict = "no faster or slower with" if slope.low <= 0 <= slope.high else verdict
    sentence = f"Time to memorise grows {verdict} the number of images: slope {number(slope, 2)} of log turn on log n."
    return Finding("slope", sentence, {"slope": slope.value, "low": slope.low, "high": slope.high})


def draw(table: pd.DataFrame, path: Path) -> None:
    """Held-out loss by step, a line a size."""
    rows = table[(table["metric"] == LOSS) & (table["step"] > 0) & table["value"].notna()]
    draw_lines([("held-out loss", rows)], "step", "subset_size", path, "step", np.log2)


EXPERIMENT = Experiment(
    "memorise", "When does a ControlNet begin to memorise?", PLAN,
    "793f71f739ebb873220b46a5690be63e7a27a0068d55985f7cce1a9d3d505b2f",
    cells, analyse, draw, required=(LOSS,),
)  # fmt: skip
