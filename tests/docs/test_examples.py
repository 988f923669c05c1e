"""The examples of docs/examples run as they stand there, on small numbers."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    __import__("sys").modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_script_builds_trains_and_scores(tmp_path: Path) -> None:
    example = load("build_train_score")
    study = example.Study(out=tmp_path, sizes=(4, 8), steps=2, batch=2, images=6, sampling_steps=2)
    rows = example.main(study)
    assert rows["subset_size"].tolist() == [4, 8]
    assert (rows["ci_low"] <= rows["value"]).all()
    assert rows["n"].tolist() == [6, 6]


def test_the_notebook_runs_and_shows_what_it_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.setattr("matplotlib.backends.backend_agg.FigureCanvasAgg.print_png", lambda *a, **k: None)
    cells = json.loads((EXAMPLES / "results.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] for cell in cells if cell["cell_type"] == "code")  # executed
    scope: dict[str, Any] = {"display": lambda *_: None}
    os.environ.setdefault("MPLBACKEND", "Agg")
    for text in code:
        exec(compile(text, "results.ipynb", "exec"), scope)
    assert len(scope["results"]) > 20
