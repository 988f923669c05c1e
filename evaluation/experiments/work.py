"""One cell from nothing to its rows: dataset, training, scoring, each as a process of its stage's command.

Every command is resumable and guards its folder, so a cell that was killed half-way, or that a cluster starts twice,
goes on where it stopped; whoever comes second waits and finds it complete.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.experiments.cells import Cell, Scoring
from evaluation.experiments.table import records
from pipeline.contract.errors import CnlabError, FolderInUseError
from pipeline.contract.identity import code_version
from pipeline.contract.processes import Commands
from trainer.run_folder import Run, is_finished, open_run, read_convergence, read_validation

Row = dict[str, Any]
NUMBERS = ["value", "ci_low", "ci_high", "n"]
POLL = 2.0  # s between looks at a folder that somebody else works in
_thread = threading.local()


def start_with(commands: Commands) -> None:
    """Have this thread's cells run their processes by ``commands``, which can stop them."""
    _thread.commands = commands


@dataclass(frozen=True)
class Places:
    """Where things lie, and how the commands are started; on a cluster every worker must see the same paths."""

    data: Path
    runs: Path
    scores: Path
    logs: Path
    device: str = "auto"
    scheduler: str = ""  # datasets are built on it too
    python: str = sys.executable

    def run(self, cell: Cell, key: str) -> Path:
        """Folder of a cell's training run; the same for every experiment that holds the cell."""
        return self.runs / f"{cell.label}-{key[:8]}"


def carry_out(cell: Cell, model: str, scorings: tuple[Scoring, ...], images: int, places: Places) -> list[Row]:
    """Rows of a cell, without the columns that its experiment adds. Raises CnlabError with the log's last line.

    ``model`` is the identity of the prior's weights; ``images`` held-out pictures each scoring takes, 0 for none.
    """
    began = time.perf_counter()
    run = train_cell(cell, model, places)
    rows = training_rows(run)
    partner = train_cell(cell.partner, model, places).folder if cell.partner else run.folder
    for scoring in scorings if images else ():
        rows += _score(run, partner, scoring, images, places)
    shared = {
        "fingerprint": cell.key(model), "model": model[:16],
        "dataset_fingerprint": str(run.fact("dataset_fingerprint"))[:16],
        "commit": str(run.fact("commit") or code_version()["commit"]), "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip
    return [{**shared, **row} for row in rows]


def train_cell(cell: Cell, model: str, places: Places) -> Run:
    """The finished run of a cell, trained if need be; its dataset and the run it starts from before it."""
    build_data(cell, places)
    start = train_cell(cell.init, model, places).checkpoint if cell.init else None
    folder = places.run(cell, cell.key(model))
    if not is_finished(folder):
        arguments = cell.train_arguments(places.data, places.runs, folder.name, start)
        _call(places, "trainer.cli", ["run", *arguments, "--device", places.device], places.logs / f"{folder.name}.log")
    return open_run(folder)


def build_data(cell: Cell, places: Places) -> None:
    """The dataset of a cell, built if need be."""
    for folder, arguments in cell.build_commands(places.data, places.scheduler):
        if not (folder / "dataset.json").exists():
            _call(places, "pipeline.cli", arguments, places.logs / f"{folder.name}.log")


def training_rows(run: Run) -> list[Row]:
    """Numbers of the run's own validations at every validated step (``loss/gap``, ``fidelity/gap`` ...).

    Their intervals are over the n held-out samples. With them ``convergence_step``, null where there was none.
    """
    rows = [
        {
            "scoring": "validation",
            "step": r["step"],
            "metric": f"{r['metric']}/{r['arm']}",
            **{k: r[k] for k in NUMBERS},
        }
        for r in records(read_validation(run.folder))
    ]
    verdict = read_convergence(run.folder)
    low, high = verdict["interval"] or (None, None)
    number = {"value": verdict["step"], "ci_low": low, "ci_high": high, "n": verdict["points"]}
    return [*rows, {"scoring": "validation", "step": run.fact("step"), "metric": "convergence_step", **number}]


def _score(run: Run, partner: Path, scoring: Scoring, images: int, places: Places) -> list[Row]:
    from evaluation.results import read_results

    folder = places.scores / run.id / scoring.name
    options = [
        option.format(run=run.folder, partner=partner, dataset=run.dataset, model=run.model)
        for option in scoring.options
    ]
    subject = [] if "--control" in options else ["--run", str(run.folder)]
    arguments = [*subject, "--images", str(images), "--results", str(folder), "--device", places.device, *options]
    arguments += ["--workers", "1"]  # cells, not pictures, are what runs side by side
    if "--arms" not in options:
        arguments += ["--arms", "control"]
    _call(places, "evaluation.cli", arguments, places.logs / f"{run.id}-{scoring.name}.log")
    table = read_results(folder)
    own = table[~table["run"].isin(["real", "real/vae"]) & ~table["run"].str.contains("/")]
    columns = ["metric", "metric_version", *NUMBERS]
    return [{**row, "scoring": scoring.name, "step": run.fact("step")} for row in records(own[columns])]


def _call(places: Places, module: str, arguments: list[str], log: Path) -> None:
    """Run a stage's command to its end, single-threaded; while its folder is somebody else's, wait."""
    log.parent.mkdir(parents=True, exist_ok=True)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    environment = {**threads, **os.environ, "PYTHONUNBUFFERED": "1"}
    while True:
        with log.open("a") as out:
            command = [places.python, "-m", module, *arguments]
            commands: Commands = getattr(_thread, "commands", None) or Commands()
            status = commands.run(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=environment
            )
        if status == 0:
            return
        if status != FolderInUseError.status:  # its text does not tell: whoever holds the folder logs here too
            raise CnlabError(f"{_last_line(log) or f'exit status {status}'} (log: {log})")
        time.sleep(POLL)


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else ""
