from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tyro

from evaluation.experiments.cells import Cell, Data
from evaluation.experiments.config import ExperimentConfig
from evaluation.experiments.cost import Costs
from evaluation.experiments.registry import NAMES, get_experiment
from pipeline.config import DatasetConfig
from pipeline.contract.errors import CnlabError
from trainer.config import TrainConfig

CELL = Cell(Data(), 64, 1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
def test_the_commands_of_every_cell_are_ones_that_the_stages_understand(name: str, tmp_path: Path) -> None:
    experiment = get_experiment(name)
    config = ExperimentConfig(name, seeds=1, other="elsewhere")  # type: ignore[arg-type]
    cells = experiment.cells(config)
    assert len({cell.key("m") for cell in cells}) == len(cells)
    assert len({cell.label for cell in cells}) == len(cells)
    for cell in cells:
        arguments = cell.train_arguments(tmp_path, tmp_path, "run", tmp_path if cell.init else None)
        train = tyro.cli(TrainConfig, args=arguments)
        assert (train.subset, train.steps, train.seed, train.variant) == (
            str(cell.subset),
            cell.steps,
            cell.seed,
            cell.variant,
        )
        builds = cell.build_commands(tmp_path, "")
        command, *options = builds[0][1]
        assert command == "build"
        build = tyro.cli(DatasetConfig, args=options)
        assert build.folder == builds[0][0]
        if not cell.fault and not cell.selection:
            assert builds[-1][0] == tmp_path / cell.data.name


def test_a_damaged_set_is_made_of_the_clean_one() -> None:
    cell = replace(CELL, fault="wrong_map", dose=0.25)
    (clean, _), (damaged, arguments) = cell.build_commands(Path("data"), "")
    assert (clean.name, damaged.name) == ("tabletop-canny-4096-s1", "tabletop-canny-4096-s1-wrong_map-0.25")
    assert arguments[:5] == ["damage", "--folder", "data/tabletop-canny-4096-s1", "--fault", "wrong_map=0.25"]


def test_what_decides_the_result_decides_the_fingerprint() -> None:
    others = [
        replace(CELL, subset=65), replace(CELL, seed=2), replace(CELL, fault="wrong_map", dose=0.1),
        replace(CELL, data=Data(size=100)), replace(CELL, hint="gaussian"), replace(CELL, init=CELL),
        replace(CELL, order_seed=1), replace(CELL, schedule="constant"), replace(CELL, pictures=0),
        replace(CELL, partner=CELL),
    ]  # fmt: skip
    keys = {cell.key("m") for cell in (CELL, *others)}
    assert len(keys) == 11
    assert CELL.key("m") != CELL.key("another prior")
    assert CELL.key("m") == Cell(Data(), 64, 1).key("m")
    assert CELL.key("m")[:8] == "1257f23f"  # published cells are known by it


def test_a_forecast_adds_up() -> None:
    costs = Costs(start=3, step=2, validation=64, checkpoint=100, validation_bytes=10)
    assert costs.seconds(CELL, 0, 1) == 3 + 400 * 2 + 6 * 64
    assert costs.seconds(CELL, 10, 2) == 3 + 400 * 2 + 6 * 64 + 2 * (3 + 10 * 1.5)
    assert costs.bytes(CELL) == 2 * 100 + 6 * 10
    assert replace(CELL, every=40).validations == 11


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": ("4,few",)}, "is not a positive number"),
        ({"seeds": 0}, "--seeds 0 is too small"),
        ({"at_once": 0}, "--at-once 0 is too small"),
        ({"steps": (0,)}, "--steps must be at least 1"),
    ],
)
def test_bad_options_get_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(CnlabError, match=message):
        ExperimentConfig("size", **options)  # type: ignore[arg-type]


def test_one_seed_of_all_sizes_comes_first() -> None:
    cells = get_experiment("size").cells(ExperimentConfig("size"))
    assert len(cells) == 18
    assert sorted(cell.subset for cell in cells[:6]) == [4, 16, 64, 256, 1024, 4096]
    assert {cell.seed for cell in cells[:6]} == {0}
    assert {cells[0].subset, cells[1].subset} == {4, 4096}


def test_experiments_share_cells_that_are_the_same() -> None:
    keys = {
        name: {cell.key("m") for cell in get_experiment(name).cells(ExperimentConfig(name))}  # type: ignore[arg-type]
        for name in ("size", "quality", "weighting")
    }
    assert keys["size"] <= keys["quality"]
    assert keys["weighting"] <= keys["size"]
