"""The folder ``runs/ID``: names of its files and the one reader; free of torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.contract.errors import CnlabError
from pipeline.contract.files import read_json


@dataclass(frozen=True)
class Run:
    """A finished training run: `summary.json` and the config beside it."""

    folder: Path
    config: dict[str, Any]
    summary: dict[str, Any]

    @property
    def id(self) -> str:
        """Name of the run."""
        return self.folder.name

    @property
    def checkpoint(self) -> Path:
        """Folder of the trained ControlNet."""
        return self.folder / str(self.summary["checkpoint"])

    @property
    def model(self) -> str:
        """Path or hub name of the prior."""
        model = self.config["model"]
        return str(model["path"] if isinstance(model, dict) else model)

    @property
    def model_mark(self) -> Any:
        """What identifies the prior wherever it lies: its recorded sha256, else its name."""
        model = self.config["model"]
        facts = {k: v for k, v in model.items() if k != "path"} if isinstance(model, dict) else {}
        return facts or self.model

    @property
    def dataset(self) -> Path:
        """Folder of the dataset it was trained on."""
        return Path(str(self.config["dataset"]["path"]))

    def fact(self, name: str) -> Any:
        """A field of the summary, for the columns of a result row."""
        return self.summary.get(name)


def open_run(folder: Path) -> Run:
    """Read a run; one that is absent, unfinished or damaged raises CnlabError."""
    folder = folder.resolve()
    if not (folder / "summary.json").is_file():
        raise CnlabError(f"{folder} is not a finished run (no summary.json); run make train first")
    header = read_json(folder / "config.json")
    config = {**header.get("config", {}), **header}  # options, and above them the records of what they resolved to
    summary = read_json(folder / "summary.json")
    for name, where, wanted in (
        ("config.json", config, ("model", "dataset")),
        ("summary.json", summary, ("checkpoint", "fingerprint", "condition", "step")),
    ):
        missing = [key for key in wanted if key not in where]
        if missing:
            raise CnlabError(f"{folder / name} lacks {', '.join(missing)}; train this run again")
    run = Run(folder, config, summary)
    if not run.checkpoint.is_dir():
        raise CnlabError(f"{run.checkpoint} does not exist; train run {run.id} again")
    return run


SUMMARY, CONFIG, CONVERGENCE = "summary.json", "config.json", "convergence.json"
COLUMNS = ("step", "images", "metric", "arm", "value", "ci_low", "ci_high", "n")


def read_validation(folder: Path) -> pd.DataFrame:
    """validation.parquet of a run; empty before the first validation."""
    path = folder / "validation.parquet"
    return pd.read_parquet(path) if path.exists() else pd.DataFrame(columns=list(COLUMNS))


def read_log(folder: Path) -> pd.DataFrame:
    """log.jsonl of a run; empty where there is none."""
    path = folder / "log.jsonl"
    if not path.is_file():
        return pd.DataFrame()
    try:
        return pd.DataFrame([json.loads(line) for line in path.read_text().splitlines() if line.strip()])
    except json.JSONDecodeError as error:
        raise CnlabError(f"{path} is damaged ({error}); mend or delete it") from error


def read_convergence(folder: Path) -> dict[str, Any]:
    """The verdict of a run on its convergence; empty where there is none."""
    path = folder / CONVERGENCE
    return dict(read_json(path)) if path.is_file() else {}
