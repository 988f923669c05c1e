"""The verdict on finished or running runs, and their curves in one picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from pipeline.contract.errors import CnlabError


@dataclass(frozen=True)
class VerdictConfig:
    """Say since when each run follows its map, or that it does not, and draw the curves."""

    runs: Positional[tuple[Path, ...]]  # runs/ID ..., finished or not
    out: Path | None = None  # PNG with all curves, fidelity above loss; none: no picture


def verdict(config: VerdictConfig) -> list[str]:
    """A line a run, and the picture at ``config.out``: fidelity above, what the map is worth in loss below.

    Raises CnlabError for a folder without validations.
    """
    from trainer.convergence.curves import draw
    from trainer.convergence.detect import convergence_of, gap_curve
    from trainer.run_folder import read_validation

    if not config.runs:
        raise CnlabError("which runs? give their folders, e.g. runs/ID")
    judged, losses = {}, {}
    for folder in config.runs:
        table = read_validation(folder)
        if not len(table):
            raise CnlabError(f"{folder} has no validation.parquet with rows; is it a run's folder?")
        name = folder.resolve().name
        curve, loss = gap_curve(table), table[table["metric"] == "loss"]
        judged[name] = (curve, convergence_of(table))
        if curve.name == "fidelity" and len(loss):
            losses[name] = gap_curve(loss)
    if len(judged) < len(config.runs):
        raise CnlabError("two of the runs have one name; rename a folder")
    if config.out is not None:
        if len({curve.name for curve, _ in judged.values()}) > 1:
            raise CnlabError("some runs have fidelity and some only losses; draw them apart")
        draw(judged, config.out, losses=losses)
    return [f"{name}: {own.reason}" for name, (_, own) in judged.items()]
