from __future__ import annotations

from pathlib import Path

import pytest
from public_script import STAND_IN

from benchmarks import record, training


@pytest.mark.slow
def test_steps_of_both_programs_are_timed_beside_their_operations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results.md")
    training.main(script, steps=3, repeats=1, model="tiny")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("dry run of a tiny model: ")]
    assert not (tmp_path / "results.md").exists()
    ratio, operations, seconds = rows
    assert "2 steps: CPU time of diffusers' script over ours: " in ratio
    assert "(one pair)" in ratio
    assert 1.2 < float(operations.rsplit(" ", 1)[1]) < 1.8
    theirs, ours = (float(part.split(" ")[0]) for part in seconds.rsplit(": ", 1)[1].split(", "))
    assert 0 < theirs < ours  # the stand-in has one weight
