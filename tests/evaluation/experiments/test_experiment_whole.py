"""One cell through the real commands: dataset, training, two scorings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from evaluation.experiments.cells import Cell, Data, Scoring
from evaluation.experiments.config import ExperimentConfig
from evaluation.experiments.engine import run_experiment
from evaluation.experiments.registry import get_experiment
from evaluation.experiments.table import read_table


@pytest.mark.proof
def test_a_cell_through_the_real_commands(model_folder: Path, tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("data", "runs", "results", "published")}
    config = ExperimentConfig(
        "size", images=4, model=str(model_folder), device="cpu", forecast=False, publish=True, **folders
    )
    data = Data(size=8, image_size=64, eval_size=6)
    cell = Cell(data, 4, 0, 2, 2, config.model, hint="gaussian", pictures=2)
    scorings = (Scoring("plain"), Scoring("none", ("--recipe.prompt", "none")))
    size = replace(get_experiment("size"), cells=lambda _: [cell], scorings=lambda _: scorings)
    run_experiment(size, config)
    table = read_table(config.published / "size.csv")
    assert set(table["scoring"]) == {"validation", "plain", "none"}
    for scoring in ("plain", "none"):
        own = table[table["scoring"] == scoring].set_index("metric")
        assert {"canny_f1_2px", "clip_score", "kid_lite0"} <= set(own.index)
        assert own.index.is_unique
        assert (own["n"] == 4).any()
    assert {"fidelity/gap", "loss/gap", "convergence_step"} <= set(table["metric"])
    assert "Scored by cnlab-eval: none, plain." in (config.published / "size.md").read_text()


@pytest.mark.proof
def test_two_nets_at_once_through_the_real_commands(model_folder: Path, tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("data", "runs", "results", "published")}
    config = ExperimentConfig(
        "composition", images=4, model=str(model_folder), device="cpu", forecast=False, at_once=1, **folders
    )
    conditions = ("canny", "palette")
    canny, palette = (Data(size=8, conditions=c, image_size=64, eval_size=6) for c in (conditions, conditions[::-1]))
    partner = Cell(palette, 4, 0, 2, 2, config.model, pictures=2)
    cell = Cell(canny, 4, 0, 2, 2, config.model, pictures=2, partner=partner)
    run_experiment(replace(get_experiment("composition"), cells=lambda _: [cell]), config)
    table = read_table(config.folder / "table.parquet")
    assert set(table["scoring"]) == {"validation", "alone", "both", "both .7"}
    values = table[table["metric"] == "canny_f1_2px"].set_index("scoring")["value"]
    assert values.index.is_unique
    assert len(values) == 3
