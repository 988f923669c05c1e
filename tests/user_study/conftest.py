from __future__ import annotations

from pathlib import Path

import pytest
from study_world import RUN_A, RUN_B, World, write_dataset, write_side

from user_study.config import Items, Make


@pytest.fixture
def world(tmp_path: Path) -> World:
    write_dataset(tmp_path / "data" / "tiny", 18)
    for run, arm in ((RUN_A, "control"), (RUN_B, "control"), (RUN_A, "prior"), (RUN_A, "shuffled")):
        write_side(tmp_path / "results", run, arm, 14)
    config = Make(
        subjects=(RUN_A, RUN_B),
        dataset=tmp_path / "data" / "tiny",
        out=tmp_path / "studies" / "s",
        results=tmp_path / "results",
        items=Items(per_sheet=10, catch=4),
    )
    return World(tmp_path, config)
