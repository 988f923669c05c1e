"""An experiment under way: what is missing is carried out, here or on a cluster, and tabled as soon as it is there."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from evaluation.experiments.base import Experiment
from evaluation.experiments.cells import Cell
from evaluation.experiments.config import ExperimentConfig
from evaluation.experiments.cost import Costs, measure, total
from evaluation.experiments.report import write_up
from evaluation.experiments.table import as_table, by_cell, published, read_table, write_table
from evaluation.experiments.work import Places, carry_out, start_with
from pipeline.contract.errors import CnlabError
from pipeline.contract.files import lock_folder
from pipeline.contract.processes import Commands

TABLE = "table.parquet"
Row = dict[str, Any]


@dataclass
class Progress:
    """The cells of an experiment and the rows of those that are finished."""

    experiment: Experiment
    config: ExperimentConfig
    model: str  # identity of the prior's weights
    cells: dict[str, Cell]  # by fingerprint, in the order in which they are carried out
    rows: dict[str, list[Row]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def missing(self) -> list[Cell]:
        """Cells without rows."""
        return [cell for key, cell in self.cells.items() if key not in self.rows]

    def add(self, key: str, rows: list[Row]) -> None:
        """Rows of a finished cell; they get the experiment's columns."""
        cell = self.cells[key]
        shared = {"experiment": self.experiment.name, "cell": cell.label, **cell.columns()}
        self.rows[key] = [{"plan": self.experiment.plan_sha256[:12], **row, **shared} for row in rows]

    def save(self) -> list[str]:
        """Write table, page and figure of what is finished; returns the answers, a sentence each."""
        table = as_table([row for key in self.cells for row in self.rows.get(key, [])])
        write_table(table, self.config.folder / TABLE)
        return write_up(self.experiment, self.config, table, self.cells)


def run_experiment(experiment: Experiment, config: ExperimentConfig) -> None:
    """Forecast, carry out or go on with an experiment, and write it up. Raises CnlabError naming cells that failed."""
    experiment.check()
    progress = open_progress(experiment, config)
    if config.publish:
        _check_published(progress)
    places = Places(
        config.data.resolve(), config.runs.resolve(), (config.folder / "scores").resolve(),
        (config.folder / "logs").resolve(), config.device, config.scheduler,
    )  # fmt: skip
    if config.dry_run:
        print("\n".join(describe(progress)))
        return
    with lock_folder(config.folder):
        todo = progress.missing[: config.limit]
        answers = progress.save()
        if todo:
            if config.forecast:
                costs = measure(min(todo, key=lambda cell: cell.subset), progress.model, places)
                print("\n".join(forecast(progress, todo, costs)), flush=True)
            _carry_out_all(progress, todo, places)
            answers = progress.save()
        print("\n".join(answers), flush=True)
    if progress.failed:
        reasons = "; ".join(f"{cell}: {reason}" for cell, reason in progress.failed.items())
        raise CnlabError(f"{len(progress.failed)} cells failed ({reasons}); the same command tries them again")


def open_progress(experiment: Experiment, config: ExperimentConfig) -> Progress:
    """Cells with what is known of them: from this folder's table, else from published ones."""
    from trainer.nets.base import model_identity

    model = model_identity(config.model)
    cells = {cell.key(model): cell for cell in experiment.cells(config)}
    progress = Progress(experiment, config, model, cells)
    own = read_table(config.folder / TABLE)
    known = {**published(config.published, set(cells)), **by_cell(own)}
    for key, rows in known.items():
        if key in cells and set(experiment.required) <= {
            row[column] for row in rows for column in ("metric", "scoring")
        }:
            progress.add(key, rows)
    return progress


def _check_published(progress: Progress) -> None:
    """Raise CnlabError if publishing would drop published cells: those of another prior, or of more sizes or seeds."""
    path = progress.config.published / f"{progress.experiment.name}.csv"
    lost = set(read_table(path)["fingerprint"]) - set(progress.cells)
    if lost:
        raise CnlabError(
            f"{path} holds {len(lost)} cells of another prior or of more sizes, steps or seeds, which --publish would "
            f"drop; ask for them too, publish elsewhere (--published FOLDER), or move {path.name} away"
        )


def describe(progress: Progress) -> list[str]:
    """The plan: what is there, what is missing."""
    there = len(progress.cells) - len(progress.missing)
    lines = [f"{progress.experiment.name}: {len(progress.cells)} cells, {there} finished"]
    return [*lines, *(f"  missing  {cell.label}" for cell in progress.missing)]


def forecast(progress: Progress, todo: list[Cell], costs: Costs) -> list[str]:
    """What is about to be done and what it will take."""
    import humanize

    config, scorings = progress.config, len(progress.experiment.scorings(progress.config))
    seconds, size = total(todo, costs, config.images, scorings)
    wall = seconds / (1 if config.scheduler else config.at_once)
    where = f"on {config.scheduler}" if config.scheduler else f"{config.at_once} at once"
    duration = humanize.precisedelta(timedelta(seconds=wall), minimum_unit="minutes", format="%.0f")
    return [
        *describe(progress)[:1],
        f"measured: {costs.step:.2f} s a step, {costs.validation:.1f} s a validation, {costs.start:.1f} s to start",
        f"{len(todo)} cells to carry out {where}: {duration} ({seconds / 3600:.2f} process-hours), "
        f"{humanize.naturalsize(size)}; datasets, and other work on this machine, apart",
    ]


def _carry_out_all(progress: Progress, todo: list[Cell], places: Places) -> None:
    import humanize

    began, config = time.perf_counter(), progress.config
    with _executor(config) as executor:
        keys: dict[Any, str] = {}
        for cell in todo:
            key = cell.key(progress.model)
            arguments = (cell, progress.model, progress.experiment.scorings(config), config.images, places)
            keys[executor.submit(carry_out, *arguments, key=key)] = key
        for count, (future, key) in enumerate(executor.results(keys), 1):
            label = progress.cells[key].label
            try:
                progress.add(key, future.result())
            except CnlabError as error:
                progress.failed[label] = str(error)
                print(f"{label} failed: {error}", file=sys.stderr, flush=True)
                continue
            progress.save()
            spent = time.perf_counter() - began
            left = humanize.naturaldelta(timedelta(seconds=spent / count * (len(todo) - count)))
            print(f"[{count}/{len(todo)}] {label}; about {left} left", flush=True)


class _Local:
    """Threads that wait for the processes of their cells."""

    def __init__(self, at_once: int) -> None:
        self.commands = Commands()
        self.pool = ThreadPoolExecutor(at_once, initializer=start_with, initargs=(self.commands,))

    def submit(self, function: Any, *arguments: Any, key: str) -> Future[list[Row]]:
        return self.pool.submit(function, *arguments)

    def results(self, futures: dict[Any, str]) -> Iterator[tuple[Any, str]]:
        for future in as_completed(futures):
            yield future, futures[future]

    def close(self) -> None:
        self.commands.stop()  # after Ctrl-C or SIGTERM; otherwise none is left
        self.pool.shutdown(cancel_futures=True)


class _Cluster:
    """Tasks on a Dask scheduler, one GPU each; a cell whose worker dies is taken up by another one."""

    def __init__(self, address: str) -> None:
        from distributed import Client

        try:
            self.client = Client(address, timeout="20s")
        except (OSError, ValueError) as error:
            raise CnlabError(f"no Dask scheduler answers at {address} ({error}); check --scheduler") from error
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        if not any(worker["resources"].get("GPU", 0) >= 1 for worker in workers):
            self.client.close()
            raise CnlabError(
                f"no worker of {address} has the resource GPU; start workers with --resources GPU=1 --nthreads 1"
            )

    def submit(self, function: Any, *arguments: Any, key: str) -> Any:
        return self.client.submit(function, *arguments, key=f"cell-{key}", resources={"GPU": 1}, pure=False)

    def results(self, futures: dict[Any, str]) -> Iterator[tuple[Any, str]]:
        from distributed import as_completed as completed

        for future in completed(list(futures)):
            yield future, futures[future]

    def close(self) -> None:
        self.client.close()


@contextmanager
def _executor(config: ExperimentConfig) -> Iterator[_Local | _Cluster]:
    executor = _Cluster(config.scheduler) if config.scheduler else _Local(config.at_once)
    try:
        yield executor
    finally:
        executor.close()
