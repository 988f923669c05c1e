"""What is bad data worth, and when does filtering pay? Known damage at known rates beside the clean size curve."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from evaluation.experiments.base import PRIMARY, TITLES, Experiment, Finding, Grid, Outcome, by_seed, final
from evaluation.experiments.cells import Cell, Data
from evaluation.experiments.config import ExperimentConfig
from evaluation.experiments.contrasts import adjusted, contrast_findings
from evaluation.experiments.figure import draw_lines
from evaluation.experiments.size import SIZES
from evaluation.experiments.words import images, means, number, p_value
from evaluation.metrics.curves import Crossing, crossing, interpolate
from evaluation.metrics.intervals import Difference, seed_difference

#: Images, fault, doses.
DAMAGE = (
    (1024, "wrong_map", (0.1, 0.25, 0.5)), (1024, "wrong_caption", (0.5, 1.0)), (1024, "greyscale", (0.5,)),
    (64, "near_duplicate", (0.9,)),
)  # fmt: skip
PLAN = """
Primary outcome and unit of chance as in the size experiment, whose clean cells are the scale here. A damaged cell
shares seed, subset and order with the clean one of its size.
1. Does the damage hurt? Damaged less clean at equal n, paired t by seed, Holm over all damaged cells.
2. What is it worth? The exchange rate: the clean n that reaches what n damaged images reach, by inversion of the t
test of clean curve less damaged value over seeds, linear in log n. Where the interval has no end within the measured
sizes, the damaged value lies outside the rising part of the curve and the rate is "not identified".
3. Does filtering pay? A perfect filter leaves (1 - dose) n clean images. Clean curve at that n less the damaged
value, paired t by seed, Holm over all damaged cells; below the smallest size it is not asked.
"""


@dataclass(frozen=True)
class Damaged:
    """A damaged cell's values beside the clean curve of the same seeds."""

    name: str
    size: int
    dose: float
    values: np.ndarray  # (S,)
    clean: np.ndarray  # (S, K)
    sizes: np.ndarray  # (K,)

    @property
    def hurt(self) -> Difference:
        """Damaged less clean at equal n."""
        return seed_difference(self.values, interpolate(self.sizes, self.clean, [self.size])[:, 0])

    @property
    def worth(self) -> Crossing:
        """The clean n it is worth."""
        return crossing(self.sizes, self.clean - self.values[:, None])

    @property
    def identified(self) -> bool:
        """Whether the exchange rate has an end within the measured sizes."""
        worth = self.worth
        return worth.value is not None and not (worth.low is None and worth.high is None)

    @property
    def filtered(self) -> Difference | None:
        """What is left clean after a perfect filter, less the damaged set."""
        left = (1 - self.dose) * self.size
        if left < self.sizes[0]:
            return None
        return seed_difference(interpolate(self.sizes, self.clean, [left])[:, 0], self.values)


def cells(config: ExperimentConfig) -> list[Cell]:
    """Damaged cells beside the clean size curve, one seed of everything first."""
    clean = sorted({*(config.numbers or SIZES), *(n for n, _, _ in DAMAGE)})
    data = Data(config.source, max(clean), (config.condition,), image_size=config.image_size)
    damaged = [(n, fault, dose) for n, fault, doses in DAMAGE for dose in doses]
    return [
        Cell(data, n, seed, steps, config.batch, config.model, draw, fault, dose)
        for seed in range(config.seeds or 3)
        for draw in range(config.draws)
        for steps in config.steps or (400,)
        for n, fault, dose in [*((n, "", 0.0) for n in clean), *damaged]
    ]


def damaged_cells(table: pd.DataFrame) -> list[Damaged]:
    """Every kind and dose whose seeds have the whole clean curve."""
    rows = final(table, PRIMARY)
    clean = by_seed(rows[rows["fault"] == ""], "subset_size").dropna()
    if clean.shape[1] < 2:
        return []
    cells = []
    for _, own in rows[rows["fault"] != ""].groupby(["fault", "dose", "subset_size"]):
        fault, dose, size = str(own["fault"].iloc[0]), float(own["dose"].iloc[0]), int(own["subset_size"].iloc[0])
        values = by_seed(own, "subset_size").iloc[:, 0].reindex(clean.index).dropna()
        if len(values) > 1:
            curve = clean.loc[values.index].to_numpy(float)
            sizes = clean.columns.to_numpy(float)
            cells.append(Damaged(f"{fault} {dose:g} (n = {size})", size, dose, values.to_numpy(), curve, sizes))
    return cells


def analyse(table: pd.DataFrame) -> Outcome:
    """See `PLAN`."""
    grids = [means(table, ["subset_size", "fault", "dose"])]
    cells = damaged_cells(table)
    if not cells:
        return Outcome(
            [Finding("too_few", "Too few to say: no damaged cell has two seeds with the whole clean curve.")], grids
        )
    hurt = {cell.name: cell.hurt for cell in cells}
    pays = {cell.name: cell.filtered for cell in cells}
    p_hurt, p_pays = adjusted(hurt), adjusted({k: d for k, d in pays.items() if d is not None})
    rows = []
    for cell in cells:
        filtered = pays[cell.name]
        rows.append([
            cell.name, number(hurt[cell.name]), p_value(p_hurt.get(cell.name)),
            images(cell.worth) if cell.identified else "not identified",
            "not asked" if filtered is None else f"{number(filtered)}, {p_value(p_pays.get(cell.name))}",
        ])  # fmt: skip
    head = ("damage", "damaged less clean", "Holm", "worth so many clean images", "filtered less damaged, Holm")
    findings = contrast_findings("hurt", hurt, "Damaged against clean images at equal n")
    paying = [name for name, p in p_pays.items() if p < 0.05 and (pays[name] or hurt[name]).value > 0]
    losing = [name for name, p in p_pays.items() if p < 0.05 and (pays[name] or hurt[name]).value < 0]
    sentence = (
        f"A perfect filter pays for {', '.join(paying) or 'none of them'}; it costs more than it gives for "
        f"{', '.join(losing) or 'none'}; the rest is not told apart."
    )
    return Outcome([*findings, Finding("filtering", sentence)], [*grids, Grid("What damage is worth", head, rows)])


def draw(table: pd.DataFrame, path: Path) -> None:
    """Fidelity against size, a line a kind of damage and dose."""
    rows = final(table, PRIMARY)
    label = rows["fault"].where(rows["fault"] != "", "clean") + rows["dose"].map(lambda d: f" {d:g}" if d else "")
    draw_lines(
        [(TITLES[PRIMARY], rows.assign(damage=label))], "subset_size", "damage", path, "training images", np.log2
    )


EXPERIMENT = Experiment(
    "quality", "What is damaged data worth to a ControlNet?", PLAN,
    "b9288f6a0b6afc6d04354aa96740f3cf4d35124fab796ef972ca84522b390dce",
    cells, analyse, draw,
)  # fmt: skip
