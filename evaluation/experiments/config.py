"""What an experiment can be told; what is left open is as the experiment's file has it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pipeline.contract.errors import CnlabError
from pipeline.contract.sizes import parse_size

Name = Literal[
    "size", "quality", "selection", "warm-start", "structure", "weighting", "composition", "transfer", "memorise"
]


@dataclass(frozen=True)
class ExperimentConfig:
    """Carry out an experiment: its cells are trained and scored, its table, page and figure written as they come."""

    name: Annotated[Name, tyro.conf.Positional]
    """Which one; --dry-run lists its cells and what they will cost."""
    sizes: tuple[str, ...] = ()
    """Training samples, as in 4 64 1k; open: the experiment's."""
    seeds: int | None = None
    """Training seeds 0 ... n - 1; open: the experiment's. More may be asked for later."""
    steps: tuple[int, ...] = ()
    """Optimizer steps; open: the experiment's."""
    draws: int = 1
    """Draws of each subset (order seeds 0 ... n - 1), beside the training seeds."""
    images: int = 64
    """Held-out pictures of a scoring; 0: only the run's own validations, which hold the primary outcome."""
    model: str = "tabletop"
    """The prior: tabletop, a local diffusers folder, or a hub name."""
    other: str = ""
    """Of transfer: another base model of the same kind."""
    source: str = "tabletop"
    """Source of the dataset, as for cnlab-dataset build."""
    condition: str = "canny"
    """Condition map."""
    image_size: int = 128
    """Pixels."""
    batch: int = 16
    """Images an optimizer step."""
    at_once: int = 2
    """Cells at a time, each as single-threaded processes of this machine. With one GPU: 1."""
    scheduler: str = ""
    """A running Dask scheduler: a cell is a task on a worker with the resource GPU=1; all must see the same folders."""
    limit: int | None = None
    """Carry out at most so many missing cells, then write up what there is."""
    device: str = "auto"
    """auto, cpu or cuda."""
    data: Path = Path("data")
    """Datasets."""
    runs: Path = Path("runs/cells")
    """Training runs; an experiment takes those of another where their cells are the same."""
    results: Path = Path("results/experiments")
    """Tables, pages, figures and logs, a folder an experiment."""
    published: Path = Path("docs/experiments")
    """Published tables: their cells are taken from there."""
    publish: bool = False
    """Write table, page and figure there too."""
    forecast: bool = True
    """Measure a few steps first; a machine that is busy anyway can do without."""
    dry_run: bool = False
    """List the cells and their cost, and stop."""

    def __post_init__(self) -> None:
        """Refuse what cannot work, in one line."""
        for name, least in (("draws", 1), ("images", 0), ("at_once", 1), ("seeds", 1), ("limit", 0), ("batch", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise CnlabError(f"--{name.replace('_', '-')} {value} is too small; at least {least}")
        if any(step < 1 for step in self.steps):
            raise CnlabError("--steps must be at least 1")
        _ = self.numbers

    @property
    def numbers(self) -> list[int]:
        """The sizes asked for, ascending; empty where they are the experiment's."""
        return sorted({parse_size(word) for text in self.sizes for word in text.split(",")})

    @property
    def folder(self) -> Path:
        """Of this experiment's table."""
        return self.results / self.name
