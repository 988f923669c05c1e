"""What must not happen to a run: kills at random moments, also while a checkpoint is being written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

STEPS = 60

KILLS = int(os.environ.get("CNLAB_TRAINER_KILLS", "6"))  # 20: recorded in docs/log.md


@pytest.mark.slow
def test_kills_at_random_moments_and_during_saves_cost_nothing(
    dataset: Path, model_folder: Path, tmp_path: Path
) -> None:
    driver = str(Path(__file__).with_name("training_kill_driver.py"))
    command = [sys.executable, driver, str(dataset), str(model_folder), str(tmp_path), str(KILLS), "11"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-2000:]
    report = json.loads(found.stdout.splitlines()[-1])
    kills = report["kills"]
    assert len(kills) == KILLS
    assert report["equal"] == {"losses": True, "weights": True, "validation": True}
    assert report["steps"] == STEPS
    assert sum(k["half_saved"] for k in kills) >= KILLS // 4
    assert len({k["step"] for k in kills}) >= min(3, KILLS // 3)  # they came at different moments
