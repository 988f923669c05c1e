"""What an experiment will cost: a few real steps of the trainer's own command, measured before it starts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from evaluation.experiments.cells import Cell
from evaluation.experiments.work import Places, build_data, train_cell
from trainer.run_folder import CHECKPOINTS, SAMPLES, log_lines

PROBE_STEPS = 5  # the first of which is not counted: kernels are chosen in it
DRAWING = 8  # denoising steps of a validation's pictures (preset tabletop); a scoring takes 12
SCORING = 12
KEPT = 2  # checkpoints a run leaves


@dataclass(frozen=True)
class Costs:
    """Seconds and bytes as measured on one process."""

    start: float  # s a run, beside its steps: imports, loading, caches
    step: float  # s an optimizer step
    validation: float  # s a validation: losses and pictures
    checkpoint: int  # bytes
    validation_bytes: int

    def seconds(self, cell: Cell, images: int, scorings: int) -> float:
        """Of a cell from nothing, its dataset apart."""
        picture = self.validation / max(cell.pictures, 1) * SCORING / DRAWING  # a scoring's; losses are small beside
        scoring = scorings * (self.start + images * picture) if images else 0.0
        return self.start + cell.steps * self.step + cell.validations * self.validation + scoring

    def bytes(self, cell: Cell) -> int:
        """That its finished run leaves."""
        return KEPT * self.checkpoint + cell.validations * self.validation_bytes


def measure(cell: Cell, model: str, places: Places) -> Costs:
    """From a run of a few steps in a passing folder, of the cell with the smallest subset."""
    places.runs.mkdir(parents=True, exist_ok=True)
    build_data(cell, places)
    with TemporaryDirectory(prefix=".forecast-", dir=places.runs) as folder:
        probe = replace(cell, steps=PROBE_STEPS, every=PROBE_STEPS)
        here = replace(places, runs=Path(folder), logs=Path(folder))
        began = time.perf_counter()
        run = train_cell(probe, model, here)
        whole = time.perf_counter() - began
        return costs_of(run.folder, whole)


def costs_of(run: Path, whole: float) -> Costs:
    """From a probe's log, which tells training time and time spent on looking apart, and the files it left."""
    lines = log_lines(run)
    elapsed = np.array([line["images"] / line["images_per_second"] for line in lines])
    step = float(np.median(np.diff(elapsed)))
    validation = float(lines[0]["looking_seconds"])
    start = max(whole - float(elapsed[-1]) - validation, 0.0)
    return Costs(start, step, validation, size_of(run / CHECKPOINTS), size_of(run / SAMPLES) // 2)


def size_of(folder: Path) -> int:
    """Bytes of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def total(cells: Sequence[Cell], costs: Costs, images: int, scorings: int) -> tuple[float, int]:
    """Seconds on one process and bytes of all cells."""
    return sum(costs.seconds(cell, images, scorings) for cell in cells), sum(map(costs.bytes, cells))
