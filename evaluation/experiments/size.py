"""How many images? Nested sizes by a factor of 4, compute-matched in rows, epoch-matched along diagonals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from evaluation.experiments.base import PRIMARY, TITLES, Experiment, Finding, Grid, Outcome, by_seed, final
from evaluation.experiments.cells import Cell, Data
from evaluation.experiments.config import ExperimentConfig
from evaluation.experiments.figure import draw_lines
from evaluation.experiments.words import headlines, images, means, number, p_value
from evaluation.metrics.curves import crossing, equivalence, trend
from evaluation.metrics.intervals import holm, seed_difference
from pipeline.contract.sizes import format_size

SIZES = (4, 16, 64, 256, 1024, 4096)
SHARE = 0.95  # of what the largest size reaches
PLAN = """
Primary outcome: fidelity above the floor (pictures to their own map less to another sample's, mean of 64 held-out
samples) of the final weights, read off the run's own last validation. Unit of chance: the training seed. A seed fixes
initial weights, noise, timesteps and dropped prompts, the same in every size; subsets are nested; all runs are judged
on the same held-out samples and noise; comparisons are paired by seed. Rows share optimizer steps, hence samples
seen.
1. Does more help? Page's trend test over all sizes, one-sided, one test for each number of steps.
2. How many are enough? The smallest n that reaches 95 % of the value at the largest size, by inversion of the t test
over seeds, linear in log n between measured sizes; outside the measured range "not known".
3. Where does it stop? Neighbouring sizes, larger minus smaller: paired t, Holm over all pairs of one number of steps;
and "no more gain" where two one-sided t tests at .05 put the difference within 5 % of the value at the largest size.
A power law may be drawn and is never an interval. Secondary outcomes are described, not tested.
"""


def cells(config: ExperimentConfig) -> list[Cell]:
    """One seed of all sizes first, ends of the range before its middle."""
    sizes = config.numbers or list(SIZES)
    data = Data(config.source, max(*sizes, 2), (config.condition,), image_size=config.image_size)
    order = sorted(sizes, key=lambda n: (n not in (sizes[0], sizes[-1]), sizes.index(n) % 2, n))
    return [
        Cell(data, n, seed, steps, config.batch, config.model, draw)
        for seed in range(config.seeds or 3)
        for draw in range(config.draws)
        for steps in config.steps or (400,)
        for n in order
    ]


def analyse(table: pd.DataFrame) -> Outcome:
    """See `PLAN`."""
    findings, grids = [], [means(table, ["steps", "subset_size"])]
    for steps, own in table.groupby("steps"):
        wide = by_seed(final(own, PRIMARY), "subset_size")
        whole = wide.dropna()
        if whole.shape[0] < 2 or whole.shape[1] < 3:
            sentence = f"Too few to say at {steps:,} steps: {whole.shape[0]} complete seeds of {whole.shape[1]} sizes."
            findings.append(Finding(f"too_few_{steps}", sentence, {"seeds": whole.shape[0], "sizes": whole.shape[1]}))
            continue
        findings += [_rise(whole, int(str(steps))), _enough(whole, int(str(steps)))]
        grids.append(_neighbours(whole, int(str(steps))))
    return Outcome(findings, grids)


def _rise(whole: pd.DataFrame, steps: int) -> Finding:
    p = trend(whole.to_numpy())
    verdict = "More images help" if p < 0.05 else "No gain from more images is shown"
    small, large = whole.columns[0], whole.columns[-1]
    gain = seed_difference(whole[large], whole[small])
    sentence = (
        f"{verdict} at {steps:,} steps (Page's trend test, {whole.shape[1]} sizes, {len(whole)} seeds, {p_value(p)}): "
        f"from {format_size(int(small))} to {format_size(int(large))} images {TITLES[PRIMARY]} gains {number(gain)}."
    )
    return Finding(f"trend_{steps}", sentence, {"p": p, "gain": gain.value, "seeds": len(whole)})


def _enough(whole: pd.DataFrame, steps: int) -> Finding:
    values = whole.to_numpy(float)
    size = crossing(whole.columns.to_numpy(float), values - SHARE * values[:, -1:])
    largest = format_size(int(whole.columns[-1]))
    sentence = (
        f"{SHARE:.0%} of what {largest} images reach at {steps:,} steps takes {images(size)}; {len(whole)} seeds."
    )
    return Finding(f"enough_{steps}", sentence, {"images": size.value, "low": size.low, "high": size.high})


def _neighbours(whole: pd.DataFrame, steps: int) -> Grid:
    pairs = list(zip(whole.columns[:-1], whole.columns[1:], strict=True))
    gains = {f"{a}-{b}": seed_difference(whole[b], whole[a]) for a, b in pairs}
    adjusted = holm({name: d.p for name, d in gains.items() if d.p is not None})
    margin = (1 - SHARE) * float(whole.iloc[:, -1].mean())
    rows = []
    for a, b in pairs:
        gain, p = gains[f"{a}-{b}"], adjusted.get(f"{a}-{b}")
        equal = equivalence(whole[b], whole[a], margin)
        sizes = f"{format_size(int(a))} → {format_size(int(b))}"
        rows.append([sizes, number(gain), p_value(p), p_value(equal), _verdict(gain.value, p, equal)])
    head = ("images", "difference, paired by seed", "Holm", "within 5 % (TOST)", "verdict")
    return Grid(f"Neighbouring sizes at {steps:,} steps", head, rows)


def _verdict(gain: float, p: float | None, equal: float) -> str:
    """In words; ``p`` after Holm, ``equal`` of the equivalence test."""
    if p is not None and p < 0.05:
        return "gain" if gain > 0 else "loss"
    return "no more gain" if equal < 0.05 else "not told apart"


def draw(table: pd.DataFrame, path: Path) -> None:
    """A panel a headline metric, log n, a line a number of steps."""
    shown = [m for m in headlines(table) if not m.endswith("_normalised")][:4]
    panels = [(TITLES.get(m, m), final(table, m)) for m in shown]
    draw_lines(panels, "subset_size", "steps", path, "training images", np.log2)


EXPERIMENT = Experiment(
    "size", "How many images does a ControlNet need?", PLAN,
    "ddf1545e831d98bd490bd543756f1509e6dba13a47566c418553e1d522ea0858",
    cells, analyse, draw,
)  # fmt: skip
