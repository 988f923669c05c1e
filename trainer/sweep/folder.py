"""The folder of a sweep: its header, its runs, its table."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.contract.dataset import Triplets
from pipeline.contract.errors import CnlabError
from pipeline.contract.files import atomic, read_json, write_json
from pipeline.contract.identity import canonical, code_version, fingerprint
from trainer.nets.models import model_identity
from trainer.run_folder import CONVERGENCE, SUMMARY, read_validation
from trainer.sweep.plan import PlannedRun, SweepConfig
from trainer.sweep.stats import as_table, rows_of

HEADER, TABLE, RUNS = "sweep.json", "sweep.parquet", "runs.txt"


@dataclass
class Sweep:
    """The runs of one command and the folder they stand in."""

    config: SweepConfig
    triplets: Triplets
    runs: list[PlannedRun]

    @property
    def folder(self) -> Path:
        """Of the sweep; the runs' folders are in it."""
        return self.runs[0].config.out

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the results."""
        shared = self.config.training(self.triplets.condition)
        training = shared.identity(self.triplets.fingerprint, model_identity(self.config.model))
        own = {k: v for k, v in training.items() if k not in ("subset", "seed")}
        return {**own, "sizes": self.config.numbers, "seeds": self.config.seeds, "arms": self.config.arms}

    @cached_property
    def header(self) -> dict[str, Any]:
        """``sweep.json``: what it is, its runs, what they were to cost and what they did. Rewritten as runs end."""
        record = {
            "sweep": self.folder.name,
            "config": self.config.as_dict(),
            "identity": self.identity,
            "fingerprint": fingerprint(self.identity),
            "dataset": {"name": self.triplets.header["name"], "fingerprint": self.triplets.fingerprint},
            "condition": self.triplets.condition,
            "costs": [],  # as measured, once a command that had something to train
            "runs": [{**run.as_dict(), "status": "planned"} for run in self.runs],
            **code_version(),
        }
        if not (self.folder / HEADER).exists():
            return record
        there: dict[str, Any] = read_json(self.folder / HEADER)
        differs = [k for k, v in self.identity.items() if canonical(there.get("identity", {}).get(k)) != canonical(v)]
        if differs:
            raise CnlabError(
                f"{self.folder} holds another sweep (it differs in {', '.join(differs)}); "
                "choose another NAME or delete that folder"
            )
        return {**there, "config": record["config"]}

    def save(self) -> None:
        """Write ``sweep.json``."""
        write_json(self.folder / HEADER, self.header)

    def record(self, run: PlannedRun) -> dict[str, Any]:
        """What ``sweep.json`` says of a run, to be changed."""
        found: dict[str, Any] = next(r for r in self.header["runs"] if r["run"] == run.name)
        return found

    @property
    def finished(self) -> list[PlannedRun]:
        """Runs whose summary is there."""
        return [run for run in self.runs if (run.config.folder / SUMMARY).exists()]

    def write_table(self) -> pd.DataFrame:
        """``sweep.parquet`` and ``runs.txt`` of the runs that are complete."""
        rows = []
        for run in self.finished:
            folder = run.config.folder
            rows += rows_of(self.folder.name, run, read_validation(folder), read_json(folder / CONVERGENCE))
        table = as_table(rows)
        with atomic(self.folder / TABLE) as temporary:
            table.to_parquet(temporary, index=False)
        with atomic(self.folder / RUNS) as temporary:
            temporary.write_text("".join(f"{run.config.folder}\n" for run in self.finished))
        return table
