"""Zero convolutions or not: variants x prompt modes x start of the hint encoder, the paper's claim as a contrast."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from evaluation.experiments.base import Experiment, Finding, Outcome, by_seed, scored
from evaluation.experiments.cells import Cell, Data, Scoring
from evaluation.experiments.config import ExperimentConfig
from evaluation.experiments.contrasts import against, contrast_findings, contrast_grid
from evaluation.experiments.figure import draw_lines
from evaluation.experiments.words import means
from evaluation.metrics.intervals import Difference, seed_difference

ZERO = "controlnet"
VARIANTS = (ZERO, "gaussian", "lite", "mlp", "only_mid")
HINTS = ("gaussian", "released")
MODES = ("none", "insufficient", "conflicting", "perfect")
SIZE = 1024
PLAN = """
Outcome: fidelity scored by cnlab-eval (F1 at 2 px for edges) of the final weights under four prompt modes, one
training a variant, start of the hint encoder and seed. Unit of chance: the training seed; contrasts are paired by
seed. The claim of the ControlNet paper (section 4.2, figure 8): without zero convolutions, or with a light encoder, a
net follows its map less, and the more so the less the prompt says.
1. Simple contrasts: each variant less zero convolutions in each prompt mode, Holm over all.
2. The claim, as interactions: (variant less zero) without a prompt, less the same with the perfect prompt; negative
where the claim holds; Holm over variants.
3. Does the hint encoder's start matter more? (released less gaussian start) of zero convolutions, mean over modes.
"""


def scorings(config: ExperimentConfig) -> tuple[Scoring, ...]:
    """The four prompt modes."""
    return tuple(Scoring(mode, ("--recipe.prompt", mode)) for mode in MODES)


def cells(config: ExperimentConfig) -> list[Cell]:
    """All variants with the gaussian start, zero convolutions and gaussian weights with the released one too."""
    data = Data(config.source, 4096, (config.condition,), image_size=config.image_size)
    pairs = [(variant, HINTS[0]) for variant in VARIANTS] + [(ZERO, HINTS[1]), ("gaussian", HINTS[1])]
    return [
        Cell(data, n, seed, steps, config.batch, config.model, variant=variant, hint=hint)
        for seed in range(config.seeds or 3)
        for steps in config.steps or (400,)
        for n in config.numbers or (SIZE,)
        for variant, hint in pairs
    ]


def analyse(table: pd.DataFrame) -> Outcome:
    """See `PLAN`."""
    rows = scored(table)
    grids = [means(table, ["variant", "hint", "scoring"])]
    own = rows[rows["hint"] == HINTS[0]]
    wide = by_seed(own, ["scoring", "variant"]) if len(own) else pd.DataFrame()
    simple: dict[str, Difference] = {}
    for mode in MODES:
        if len(wide) and (mode, ZERO) in wide:
            simple |= {f"{name}, prompt {mode}": d for name, d in against(pd.DataFrame(wide[mode]), ZERO).items()}
    findings = contrast_findings("simple", simple, "Variants less zero convolutions")
    interactions = {v: d for v in VARIANTS if v != ZERO and (d := _interaction(wide, v))}
    findings += contrast_findings("claim", interactions, "Without a prompt less with one, of variant less zero")
    findings += _hint(rows)
    grids += [contrast_grid("Less zero convolutions", simple), contrast_grid("The paper's claim", interactions)]
    return Outcome(findings, grids)


def _interaction(wide: pd.DataFrame, variant: str) -> Difference | None:
    names = [(mode, v) for mode in ("none", "perfect") for v in (variant, ZERO)]
    if not len(wide) or not set(names) <= set(wide.columns):
        return None
    both = wide[names].dropna()
    if not len(both):
        return None
    return seed_difference(both[names[0]] - both[names[1]], both[names[2]] - both[names[3]])


def _hint(rows: pd.DataFrame) -> list[Finding]:
    own = rows[rows["variant"] == ZERO]
    wide = by_seed(own, "hint") if len(own) else pd.DataFrame()
    if not set(HINTS) <= set(wide.columns):
        return [Finding("hint", "The hint encoder's two starts are not both there.")]
    return contrast_findings("hint", against(wide, HINTS[0]), "Start of the hint encoder, less the gaussian one")


def draw(table: pd.DataFrame, path: Path) -> None:
    """Fidelity in each prompt mode, a line a variant."""
    rows = scored(table)
    rows = rows[rows["hint"] == HINTS[0]]
    if len(rows):
        draw_lines([("fidelity", rows)], "scoring", "variant", path, "prompt")


EXPERIMENT = Experiment(
    "structure", "Does a ControlNet need zero convolutions?", PLAN,
    "4eb0dcd3238e6f2dd4f09887af687c85d726f3c1dabbf6f5351cef540586210e",
    cells, analyse, draw, scorings, MODES,
)  # fmt: skip
