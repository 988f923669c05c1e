from __future__ import annotations

from pathlib import Path

import pytest
from study_world import RUN_A, RUN_B, World, write_dataset, write_side

from user_study.config import Make


@pytest.fixture
def world(tmp_path: Path) -> World:
    write_dataset(tmp_path / "data" / "tiny", 14)
    for run, arm in ((RUN_A, "control"), (RUN_B, "control"), (RUN_A, "prior"), (RUN_A, "shuffled")):
        write_side(tmp_path / "results", run, arm, 12)
    config = Make(
        a=RUN_A,
        b=RUN_B,
        dataset=tmp_path / "data" / "tiny",
        out=tmp_path / "studies" / "s",
        results=tmp_path / "results",
        items=10,
    )
    return World(tmp_path, config)
