"""Each experiment's analysis on tables whose truth is known, and on tables with too little in them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from evaluation.experiments.base import PRIMARY, Outcome
from evaluation.experiments.cells import Cell
from evaluation.experiments.config import ExperimentConfig
from evaluation.experiments.quality import damaged_cells
from evaluation.experiments.registry import NAMES, get_experiment
from evaluation.experiments.report import page
from evaluation.experiments.table import as_table

Truth = Callable[[Cell, str], float]
NOISE = 0.004


def simulate(name: str, truth: Truth, seeds: int = 3, noise: float = NOISE, **options: Any) -> pd.DataFrame:
    """The table an experiment would have: truth(cell, scoring), seeds' own level, and noise."""
    config = ExperimentConfig(name, seeds=seeds, other="elsewhere", **options)  # type: ignore[arg-type]
    experiment, rng = get_experiment(name), np.random.default_rng(3)
    rows = []
    for cell in experiment.cells(config):
        shared = {"experiment": name, "cell": cell.label, **cell.columns(), "n": 64, "fingerprint": cell.key("m")}
        level = 0.02 * cell.seed
        scored = {s.name: "canny_f1_2px" for s in experiment.scorings(config)}
        for scoring, metric in {"validation": PRIMARY, **scored}.items():
            value = truth(cell, scoring) + level + rng.normal(0, noise)
            rows.append({**shared, "scoring": scoring, "metric": metric, "step": cell.steps, "value": value})
    return as_table(rows)


def curve(n: float) -> float:
    """Rises by .1 with every factor of 4 from 4 to 256, then hardly."""
    return 0.2 + 0.1 * min(math.log(n / 4, 4), 3 + 0.02 * math.log(max(n / 256, 1), 4))


def analyse(name: str, table: pd.DataFrame) -> tuple[Outcome, str]:
    outcome = get_experiment(name).analyse(table)
    return outcome, " ".join(finding.sentence for finding in outcome.findings)


def grid(outcome: Outcome, title: str) -> dict[str, list[str]]:
    return {row[0]: row[1:] for g in outcome.grids if title in g.title for row in g.rows}


def test_size_says_how_many_are_enough() -> None:
    outcome, text = analyse("size", simulate("size", lambda cell, _: curve(cell.subset), seeds=5))
    enough = next(f for f in outcome.findings if f.name == "enough_400").numbers
    truth = 256 * 4 ** ((0.95 * 0.504 - 0.5) / 0.1)  # on the rising part; seeds' levels move it little
    assert enough["low"] < truth < enough["high"]
    assert "More images help at 400 steps" in text
    verdicts = {sizes: row[-1] for sizes, row in grid(outcome, "Neighbouring").items()}
    assert verdicts == {
        "4 → 16": "gain", "16 → 64": "gain", "64 → 256": "gain",
        "256 → 1024": "no more gain", "1024 → 4096": "no more gain",
    }  # fmt: skip


def test_contradictory_tables_give_different_verdicts() -> None:
    rising = analyse("size", simulate("size", lambda cell, _: 0.1 * math.log(cell.subset, 4)))[1]
    flat = analyse("size", simulate("size", lambda cell, _: 0.5, noise=0.01))[1]
    falling = analyse("size", simulate("size", lambda cell, _: 0.9 - 0.1 * math.log(cell.subset, 4)))[1]
    assert "More images help" in rising
    assert "No gain from more images is shown" in flat
    assert "gains -0.5" in falling
    assert "above the level at the smallest size" in falling


def test_budgets_are_analysed_apart() -> None:
    table = simulate("size", lambda cell, _: curve(cell.subset) * cell.steps / 400, steps=(100, 400))
    names = [finding.name for finding in analyse("size", table)[0].findings]
    assert names == ["trend_100", "enough_100", "trend_400", "enough_400"]


def quality_truth(cell: Cell, _: str) -> float:
    """A wrong map is as bad as no sample, a wrong caption harmless; near-duplicates count as nothing."""
    if cell.fault == "wrong_map":
        return curve(cell.subset) - 0.3 * cell.dose
    if cell.fault == "near_duplicate":
        return curve(cell.subset * (1 - cell.dose))
    return curve(cell.subset)


def test_quality_gives_exchange_rates_and_says_when_filtering_pays() -> None:
    table = simulate("quality", quality_truth, seeds=5)
    outcome, text = analyse("quality", table)
    cells = {cell.name: cell for cell in damaged_cells(table)}
    half = cells["wrong_map 0.5 (n = 1024)"]
    truth = 256 * 4 ** ((curve(1024) - 0.3 * 0.5 - 0.5) / 0.1)
    assert half.worth.low is not None
    assert half.worth.high is not None
    assert half.worth.low < truth < half.worth.high
    duplicates = cells["near_duplicate 0.9 (n = 64)"]
    assert duplicates.worth.low is not None
    assert duplicates.worth.low < 6.4 < (duplicates.worth.high or 0)
    rows = grid(outcome, "What damage is worth")
    assert rows["wrong_caption 0.5 (n = 1024)"][2] == "not identified"  # beside the rising part
    assert "worse: " in text
    assert "not told apart: " in text
    pays = next(f for f in outcome.findings if f.name == "filtering").sentence
    assert "wrong_map 0.5" in pays.split(";")[0]
    assert "near_duplicate" not in pays.split(";")[0]


def test_selection_and_warm_start() -> None:
    outcome, text = analyse(
        "selection", simulate("selection", lambda c, _: curve(c.subset) + 0.05 * (c.selection == "clusters"), seeds=5)
    )
    assert {k: v[-1] for k, v in grid(outcome, "Against random").items() if "clusters" in k} == {
        f"clusters, n = {n}": "better" for n in (16, 64, 256)
    }
    assert "not told apart: contrast:desc, n = 16" in text
    outcome, _ = analyse(
        "warm-start", simulate("warm-start", lambda c, _: curve(c.subset * 4 if c.init else c.subset), seeds=5)
    )
    worth = next(f for f in outcome.findings if f.name == "worth")
    assert worth.numbers["images"] == pytest.approx(64, rel=0.3)
    assert grid(outcome, "Warm less cold")["n = 16"][-1] == "better"


def test_structure_tests_the_papers_claim_as_an_interaction() -> None:
    def claim(cell: Cell, scoring: str) -> float:
        penalty = {"none": 0.2, "insufficient": 0.1, "conflicting": 0.1, "perfect": 0.0}.get(scoring, 0.0)
        return 0.5 - (penalty if cell.variant == "lite" else 0.0) - 0.05 * (cell.variant == "mlp")

    outcome, _ = analyse("structure", simulate("structure", claim, seeds=5))
    interactions = {k: v[-1] for k, v in grid(outcome, "The paper's claim").items()}
    assert interactions == {
        "gaussian": "not told apart",
        "lite": "worse",
        "mlp": "not told apart",
        "only_mid": "not told apart",
    }
    simple = {k: v[-1] for k, v in grid(outcome, "Less zero").items()}
    assert simple["mlp, prompt perfect"] == "worse"
    assert simple["lite, prompt perfect"] == "not told apart"


@pytest.mark.parametrize(
    ("name", "scoring", "title"),
    [
        ("weighting", "paper", "fidelity, less"),
        ("composition", "both", "Less alone"),
        ("transfer", "other", "Less its own"),
    ],
)
def test_scorings_of_one_net_are_compared_by_seed(name: str, scoring: str, title: str) -> None:
    table = simulate(name, lambda cell, own: 0.5 - 0.1 * (own == scoring), seeds=4)
    outcome, _ = analyse(name, table)
    verdicts = {k: v[-1] for k, v in grid(outcome, title).items()}
    assert verdicts.pop(scoring) == "worse"
    assert set(verdicts.values()) <= {"not told apart"}


@pytest.mark.parametrize(
    ("power", "verdict"), [(1.0, "in proportion to"), (0.0, "no faster or slower with"), (0.4, "slower")]
)
def test_memorise_reads_the_exponent_off_the_turns(power: float, verdict: str) -> None:
    config, rng, rows = ExperimentConfig("memorise", seeds=4), np.random.default_rng(1), []
    for cell in get_experiment("memorise").cells(config):
        turn = 60 * (cell.subset / 4) ** power * math.exp(rng.normal(0, 0.15))
        for step in range(0, 8001, 20):
            value = 0.2 + 0.01 * math.log((step + 1) / turn) ** 2
            shared = {"experiment": "memorise", "cell": cell.label, **cell.columns(), "fingerprint": cell.key("m")}
            rows.append({**shared, "scoring": "validation", "metric": "loss/true", "step": step, "value": value})
    outcome, text = analyse("memorise", as_table(rows))
    assert verdict in text
    assert outcome.findings[0].numbers["slope"] == pytest.approx(power, abs=0.15)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
def test_a_table_with_little_in_it_is_written_up_too(name: str, tmp_path: Path) -> None:
    experiment = get_experiment(name)
    table = simulate(name, lambda cell, _: 0.5, seeds=1)
    if name == "memorise":
        table["metric"] = table["metric"].replace(PRIMARY, "loss/true")
    for part in (table, table[table["cell"] == table["cell"].iloc[0]]):
        outcome = experiment.analyse(part)
        text = page(experiment, part, {}, outcome)
        assert experiment.question in text
        assert outcome.findings
        assert "[nan" not in text
        assert experiment.draw is not None
        experiment.draw(part, tmp_path / "figure.png")
        assert (tmp_path / "figure.png").stat().st_size > 3000
