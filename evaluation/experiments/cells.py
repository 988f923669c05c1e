"""Cells: one training run with everything an experiment varies, and the commands that carry it out."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.contract.identity import fingerprint
from pipeline.contract.sizes import format_size
from pipeline.sources.tabletop import WORLD_VERSION

VERSION = 1  # raised when the same cell would be trained otherwise
VALIDATIONS = 5  # after the start; the last one's fidelity is the outcome
FIDELITY_SAMPLES = 64  # pictures of each validation


@dataclass(frozen=True)
class Data:
    """A dataset by the options that build it."""

    source: str = "tabletop"
    size: int = 4096
    conditions: tuple[str, ...] = ("canny",)
    seed: int = 1
    image_size: int = 128
    eval_size: int = 256

    @property
    def name(self) -> str:
        """Of its folder, as ``make dataset`` names it where nothing is unusual."""
        base = self.source if self.source == "tabletop" else Path(self.source.partition(":")[2].rstrip("/*")).name
        unusual = (f"-{self.image_size}px" if self.image_size != 128 else "") + (
            f"-e{self.eval_size}" if self.eval_size != 256 else ""
        )
        return f"{base}-{'-'.join(self.conditions)}-{format_size(self.size)}-s{self.seed}{unusual}"

    @property
    def identity(self) -> dict[str, Any]:
        """What decides its content."""
        return {**asdict(self), **({"world": WORLD_VERSION} if self.source == "tabletop" else {})}


@dataclass(frozen=True)
class Scoring:
    """One evaluation of a cell's ControlNet: ``cnlab-eval --run RUN`` with ``options`` besides."""

    name: str  # stands in the column ``scoring``
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """A training run of an experiment; open values are the trainer's preset."""

    data: Data
    subset: int
    seed: int
    steps: int = 400
    batch: int = 16
    model: str = "tabletop"
    order_seed: int = 0  # which samples the subset holds; 0: the first by rank
    fault: str = ""
    dose: float = 0.0
    selection: str = ""
    variant: str = "controlnet"
    hint: str = ""  # initialisation of the hint encoder
    init: Cell | None = None  # the cell whose ControlNet it starts from
    partner: Cell | None = None  # the cell whose ControlNet its scorings use beside its own, as {partner}
    schedule: str = ""  # of the learning rate
    every: int | None = None  # steps between validations; open: a fifth of all
    pictures: int = FIDELITY_SAMPLES  # of a validation; 0: losses alone

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the cell's result but the prior's weights (`key`)."""
        own = {k: v for k, v in asdict(self).items() if k not in ("data", "init", "partner", "model")}
        others = {name: cell.identity for name, cell in (("init", self.init), ("partner", self.partner)) if cell}
        return {**own, "data": self.data.identity, **others, "version": VERSION}

    def key(self, model: str) -> str:
        """Fingerprint; ``model`` is the identity of the prior's weights."""
        return fingerprint({**self.identity, "model": model})

    @property
    def label(self) -> str:
        """What a person calls it; unique within an experiment."""
        parts = [
            f"n{format_size(self.subset)}", f"{self.steps}steps",
            *([f"{self.fault}-{self.dose:g}"] if self.fault else []),
            *([re.sub(r"[^\w.]+", "-", self.selection)] if self.selection else []),
            *([self.variant] if self.variant != "controlnet" else []),
            *([f"hint-{self.hint}"] if self.hint else []),
            *([f"from-{self.init.data.conditions[0]}-{self.init.label}"] if self.init else []),
            *([f"with-{self.partner.data.conditions[0]}"] if self.partner else []),
            *([self.schedule] if self.schedule else []),
            f"s{self.seed}", *([f"o{self.order_seed}"] if self.order_seed else []),
        ]  # fmt: skip
        return "-".join(parts)

    @property
    def validations(self) -> int:
        """Of its run, the one before the first step among them."""
        every = self.every or max(self.steps // VALIDATIONS, 1)
        return 1 + -(-self.steps // every)

    @property
    def dataset(self) -> str:
        """Name of the dataset it trains on."""
        selected = f"-{re.sub(r'[^a-z0-9.]+', '-', self.selection)}" if self.selection else ""
        return f"{self.data.name}{selected}" + (f"-{self.fault}-{self.dose:g}" if self.fault else "")

    def columns(self) -> dict[str, Any]:
        """Of the table."""
        return {
            "dataset": self.dataset, "condition": self.data.conditions[0], "subset_size": self.subset,
            "steps": self.steps, "batch": self.batch, "fault": self.fault, "dose": self.dose,
            "selection": self.selection, "variant": self.variant, "hint": self.hint,
            "init": f"{self.init.data.conditions[0]} {self.init.label}" if self.init else "",
            "schedule": self.schedule, "train_seed": self.seed, "order_seed": self.order_seed,
        }  # fmt: skip

    def build_commands(self, data: Path, scheduler: str) -> list[tuple[Path, list[str]]]:
        """Folder and arguments of each ``cnlab-dataset`` command, in their order; all are needed."""
        own, base = self.data, data / self.data.name
        commands = [(base, [
            "build", "--source", own.source, "--size", str(own.size), "--condition", *own.conditions, "--seed",
            str(own.seed), "--image-size", str(own.image_size), "--eval-size", str(own.eval_size), "--out", str(data),
            "--name", own.name, "--scheduler", scheduler,
        ])]  # fmt: skip
        if self.selection:
            name = self.dataset.removesuffix(f"-{self.fault}-{self.dose:g}") if self.fault else self.dataset
            select = ["select", "--folder", str(base), "--select", self.selection, "--name", name]
            commands.append((data / name, select))
            base = data / name
        if self.fault:
            damage = ["damage", "--folder", str(base), "--fault", f"{self.fault}={self.dose:g}", "--name", self.dataset]
            commands.append((data / self.dataset, damage))
        return commands

    def train_arguments(self, data: Path, runs: Path, name: str, checkpoint: Path | None) -> list[str]:
        """Of ``cnlab-train run``; ``checkpoint`` is what ``init`` left."""
        return [
            "--dataset", str(data / self.dataset), "--model", self.model, "--subset", str(self.subset),
            "--steps", str(self.steps), "--batch", str(self.batch), "--seed", str(self.seed),
            "--validate-every", str(self.every or max(self.steps // VALIDATIONS, 1)), "--variant", self.variant,
            "--watch.fidelity-samples", str(self.pictures),
            *(["--optimizer.schedule", self.schedule] if self.schedule else []),
            *(["--hint.init", self.hint] if self.hint else []),
            *(["--order-seed", str(self.order_seed)] if self.order_seed else []),
            *(["--init", str(checkpoint)] if checkpoint else []),
            "--out", str(runs), "--name", name,
        ]  # fmt: skip
