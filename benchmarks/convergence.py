"""Error of the convergence detector on simulated curves whose change is known, beside two plain baselines.

Baselines: ruptures' least-squares mean shift (the BIC penalty says whether, one change point says where, Bai 1997 gives
the interval), and the step of the largest increment. ``python -m benchmarks.convergence`` writes the tables of
docs/convergence.md between its markers and docs/img/convergence-simulated.png; one seed, the same curves for all.
"""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import ruptures
import tyro
from scipy import stats
from scipy.special import expit

from benchmarks.record import record, spread
from trainer.convergence.curves import draw
from trainer.convergence.detect import Convergence, Curve, detect

SEED = 20_230_210
SPACING = 100  # steps between validations
DOCS = Path(__file__).resolve().parent.parent / "docs"
BAI = 7.687  # 95% of |argmax| of the limit process for a mean shift in units of noise^2 / shift^2 (Bai 1997)


@dataclass(frozen=True)
class Kind:
    """What to simulate. Widths and places are shares of the run; jump and drift are in units of the noise."""

    name: str
    points: int = 40
    jump: float = 10.0
    width: float = 0.0  # 10% to 90%; 0: a step
    shape: str = "logistic"
    slow: float = 0.0  # further rise by the end, as a share of the jump
    place: tuple[float, float] = (0.2, 0.7)  # of the midpoint; beyond 1: the run stops before it
    correlation: float = 0.0  # of the noise from point to point
    outlier: float = 0.0  # added to one point
    tails: bool = False  # Student's t with 3 degrees of freedom instead of normal noise
    errors: bool = True  # whether standard errors (equal to the noise) are given
    start: float = 0.0  # height before the change, in units of the noise
    second: float = 0.0  # a second step, 30% of the run after the first, as a share of the jump; below 0: a fall


CHANGES = [
    *(Kind(f"step, {t} points", points=t) for t in (8, 12, 20, 40, 100, 200)),
    *(Kind(f"step, jump of {j} noise", jump=j) for j in (4, 6, 20)),
    *(Kind(f"logistic over {100 * w:g}% of the run", width=w) for w in (0.025, 0.1, 0.2)),
    Kind("straight ramp over 20%", width=0.2, shape="linear"),
    Kind("saturating exponential over 20%", width=0.2, shape="exponential"),
    Kind("step, slow further rise of half the jump", slow=0.5),
    Kind("logistic over 10%, slow further rise of half", width=0.1, slow=0.5),
    Kind("straight ramp over 20%, slow further rise of half, 100 points", 100, width=0.2, shape="linear", slow=0.5),
    Kind("step, early (2% to 10% of the run), 100 points", 100, place=(0.02, 0.1)),
    Kind("step, late (80% to 93% of the run)", place=(0.8, 0.93)),
    Kind("step, correlated noise (0.5)", correlation=0.5),
    Kind("logistic over 20%, correlated noise (0.5)", width=0.2, correlation=0.5),
    Kind("step, heavy tails", tails=True),
    Kind("step, no errors given", errors=False),
    Kind("logistic over 20%, jump of 5, no errors given", jump=5, width=0.2, errors=False),
    Kind("two steps, the second of 60%", second=0.6, place=(0.2, 0.45)),
    Kind("two steps, the second of 60%, no errors given", second=0.6, place=(0.2, 0.45), errors=False),
]
NO_CHANGES = [
    *(Kind(f"flat, {t} points", points=t, jump=0) for t in (8, 12, 40, 100)),
    *(Kind(f"flat, {t} points, no errors given", points=t, jump=0, errors=False) for t in (8, 12, 40, 100)),
    Kind("flat, one outlier of 10 noise", jump=0, outlier=10),
    Kind("flat, one outlier, no errors given", jump=0, outlier=10, errors=False),
    Kind("flat, correlated noise (0.5), no errors given", jump=0, correlation=0.5, errors=False),
    Kind("flat, correlated noise (0.8), no errors given", jump=0, correlation=0.8, errors=False),
    Kind("flat, heavy tails, no errors given", jump=0, tails=True, errors=False),
    Kind("rise within noise (1)", jump=1),
    Kind("cut at 2% to 30% of a rise over 10%", width=0.1, place=(1.02, 1.08)),
    Kind("cut at 30% to 50% of a rise over 10%", width=0.1, place=(1.0, 1.02)),
    Kind("cut at 50% to 75% of a rise over 10%", width=0.1, place=(0.975, 1.0)),
    Kind("cut at 50% to 75% of a rise over 20%", width=0.2, place=(0.95, 1.0)),
    Kind("a step that is taken back", second=-1, place=(0.2, 0.45)),
    Kind("a step of which 60% is taken back", second=-0.6, place=(0.2, 0.45)),
    Kind("a step that is taken back, no errors given", second=-1, place=(0.2, 0.45), errors=False),
    Kind("high from the first point on, 60% lost", second=-0.6, place=(0.0, 0.0)),
    Kind("high from the first point on, 60% lost over 20% of the run", jump=-6, width=0.2, start=10),
    Kind("high from the first point on, 60% lost, 12 points", points=12, second=-0.6, place=(0.0, 0.0)),
]


def noise(kind: Kind, rng: np.random.Generator) -> np.ndarray:
    """(T,) of unit variance."""
    white = rng.normal(size=kind.points)
    if kind.tails:
        white = rng.standard_t(3, size=kind.points) / math.sqrt(3)
    out = white.copy()
    for i in range(1, kind.points):
        out[i] = kind.correlation * out[i - 1] + math.sqrt(1 - kind.correlation**2) * white[i]
    return out


def simulate(kind: Kind, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float]:
    """Steps (T,), values (T,) and the true midpoint, uniform over the kind's places."""
    steps = SPACING * np.arange(1.0, kind.points + 1)
    middle = float(rng.uniform(*kind.place)) * steps[-1]
    z = (steps - middle) / max(kind.width * steps[-1], 1e-6)
    rise = {
        "logistic": lambda: expit(2 * math.log(9) * z),
        "linear": lambda: np.clip(0.5 + 0.8 * z, 0, 1),
        "exponential": lambda: 1 - np.exp(-np.maximum(math.log(9) * z + math.log(2), 0)),
    }[kind.shape]()
    further = kind.slow * -np.expm1(-2 * np.maximum(steps - middle, 0) / steps[-1]) / -math.expm1(-2)
    later = kind.second * (steps > middle + 0.3 * steps[-1])
    values = kind.start + kind.jump * (rise + further + later) + noise(kind, rng)
    values[rng.integers(kind.points)] += kind.outlier
    return steps, values, middle


class Found(NamedTuple):
    """A method's verdict: whether there was a change, its step, the 95% interval of it, and whether it was sudden."""

    yes: bool
    step: float
    interval: tuple[float, float] | None
    sudden: bool = False


def ours(kind: Kind, steps: np.ndarray, values: np.ndarray) -> Found:
    """trainer.convergence.detect."""
    verdict = detect(steps, values, np.ones_like(values) if kind.errors else None)
    return Found(verdict.converged, float(verdict.step or math.nan), verdict.interval, bool(verdict.sudden))


def mean_shift(kind: Kind, steps: np.ndarray, values: np.ndarray) -> Found:
    """Ruptures: penalty 2 s^2 log T (BIC), s from the differences' median, must find a shift; one change, upward."""
    if len(values) < 4:
        return Found(False, math.nan, None)
    s2 = (np.median(np.abs(np.diff(values))) / (stats.norm.ppf(0.75) * math.sqrt(2))) ** 2
    fit = ruptures.KernelCPD("linear", min_size=2).fit(values)  # squared error, exact: PELT and dynamic programming
    changes = fit.predict(pen=2 * s2 * math.log(len(values)))
    k = fit.predict(n_bkps=1)[0]
    before, after = values[:k], values[k:]
    shift = after.mean() - before.mean()
    middle = (steps[k - 1] + steps[k]) / 2
    left = (before.var() * len(before) + after.var() * len(after)) / (len(values) - 2)
    half = (BAI * left / shift**2 + 1) * SPACING
    return Found(len(changes) > 1 and bool(shift > 0), middle, (middle - half, middle + half))


def largest_increment(kind: Kind, steps: np.ndarray, values: np.ndarray) -> Found:
    """The largest difference of neighbours; a change when above the 95% point of the largest of T - 1 (Bonferroni)."""
    d = np.diff(values)
    k = int(np.argmax(d))
    s = np.median(np.abs(d - np.median(d))) / stats.norm.ppf(0.75)
    return Found(bool(d[k] > s * stats.norm.ppf(1 - 0.05 / len(d))), float(steps[k] + steps[k + 1]) / 2, None)


METHODS = {"ours": ours, "mean shift": mean_shift, "increment": largest_increment}


def share(hits: int, of: int) -> str:
    """Per cent with the 95% Clopper-Pearson interval."""
    if of == 0:
        return "-"
    interval = stats.binomtest(hits, of).proportion_ci()
    return f"{100 * hits / of:.1f} ({100 * interval.low:.1f}-{100 * interval.high:.1f})"


def change_row(kind: Kind, repeats: int) -> str:
    """Misses, bias, error and coverage of each method, errors in validation spacings."""
    rng = np.random.default_rng([SEED, CHANGES.index(kind)])
    curves = [simulate(kind, rng) for _ in range(repeats)]
    cells = [kind.name]
    for name, method in METHODS.items():
        detected = [(method(kind, s, v), m) for s, v, m in curves]
        detected = [(f, m) for f, m in detected if f.yes]
        wrong = np.array([(f.step - m) / SPACING for f, m in detected])
        cells.append(f"{100 * (1 - len(detected) / repeats):.1f}")
        few = len(detected) < 10
        cells.append("-" if few else f"{wrong.mean():+.2f}")
        cells.append("-" if few else f"{math.sqrt((wrong**2).mean()):.2f}")
        if name != "increment":
            inside = sum(f.interval[0] <= m <= f.interval[1] for f, m in detected if f.interval)
            cells.append("-" if few else share(inside, len(detected)))
        if name == "ours":
            cells.append("-" if few else f"{100 * sum(f.sudden for f, _ in detected) / len(detected):.0f}")
    return "| " + " | ".join(cells) + " |"


def no_change_row(kind: Kind, repeats: int) -> str:
    """False alarms of each method."""
    rng = np.random.default_rng([SEED, 1, NO_CHANGES.index(kind)])
    curves = [simulate(kind, rng) for _ in range(repeats)]
    alarms = [share(sum(m(kind, s, v).yes for s, v, _ in curves), repeats) for m in METHODS.values()]
    return "| " + " | ".join([kind.name, *alarms]) + " |"


ONLINE = [
    Kind("step"),
    Kind("step, jump of 6 noise", jump=6),
    Kind("logistic over 10%", width=0.1),
    Kind("logistic over 20%", width=0.2),
    Kind("step, slow further rise of half", slow=0.5),
    Kind("step, correlated noise (0.5)", correlation=0.5),
]


def online_row(kind: Kind, repeats: int) -> str:
    """Asked at every validation: how often "converged" came before the midpoint, and how long after 90% of the rise."""
    rng = np.random.default_rng([SEED, 2, ONLINE.index(kind)])
    early = cut = back = missed = other = 0
    delays = []
    for _ in range(repeats):
        steps, values, middle = simulate(kind, rng)
        converged = [detect(steps[:n], values[:n], np.ones(n)).converged for n in range(1, kind.points + 1)]
        other += any(mean_shift(kind, steps[:n], values[:n]).yes for n in range(4, int(middle // SPACING) + 1))
        done = middle + 0.5 * kind.width * steps[-1]
        if not any(converged):
            missed += 1
            continue
        first = int(np.argmax(converged))
        early += bool(steps[first] < middle)
        cut += bool(middle <= steps[first] < done)
        back += not all(converged[first:])
        delays.append(int(np.sum((steps > done) & (steps <= steps[first]))))
    low, half, high = np.quantile(delays, [0.1, 0.5, 0.9])
    row = [kind.name, share(early, repeats), share(cut, repeats), share(missed, repeats), share(back, repeats)]
    return "| " + " | ".join([*row, f"{half:.0f} ({low:.0f}-{high:.0f})", share(other, repeats)]) + " |"


def write(name: str, head: list[str], rows: list[str], kinds: list[Kind]) -> None:
    """Put a table between ``<!-- NAME -->`` and ``<!-- /NAME -->`` in docs/convergence.md.

    Rows of ``kinds`` that are not among ``rows`` stay as they are there.
    """
    path = DOCS / "convergence.md"
    before, old, after = re.split(f"(?s)<!-- {name} -->\n(.*?)<!-- /{name} -->", path.read_text())
    lines = {line.split(" | ")[0]: line for line in [*old.splitlines()[2:], *rows]}
    body = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    body += [lines[f"| {kind.name}"] for kind in kinds if f"| {kind.name}" in lines]
    path.write_text(before + f"<!-- {name} -->\n" + "\n".join(body) + f"\n<!-- /{name} -->" + after)


def figure() -> None:
    """Three sudden runs and one that was stopped before its rise."""
    rng = np.random.default_rng([SEED, 3])
    runs: dict[str, tuple[Curve, Convergence]] = {}
    for label, kind in {
        "sudden": Kind("", place=(0.3, 0.3), slow=0.25, jump=14),
        "over 20% of the run": Kind("", place=(0.55, 0.55), width=0.2, jump=12),
        "stopped in its rise": Kind("", points=24, place=(1.0, 1.0), width=0.2, jump=12),
        "flat": Kind("", jump=0),
    }.items():
        steps, values, _ = simulate(kind, rng)
        curve = Curve(steps, values * 0.03, np.full(kind.points, 0.03), "fidelity")
        runs[label] = (curve, detect(curve.steps, curve.values, curve.errors))
    draw(runs, DOCS / "img" / "convergence-simulated.png")


def timing() -> None:
    """Milliseconds a verdict at 100 points."""
    rng = np.random.default_rng([SEED, 4])
    taken = []
    for _ in range(60):
        steps, values, _ = simulate(Kind("", points=100), rng)
        steps = steps + rng.integers(1, 50)  # another grid, as at each validation: nothing is reused
        began = time.perf_counter()
        detect(steps, values, np.ones(100))
        taken.append(1000 * (time.perf_counter() - began))
    record("convergence verdict, 100 points, ms", spread(taken[10:]))


EACH = ["miss %", "bias", "RMSE"]
ERROR = [*EACH, "cover %", "sudden %", *(f"{c} ms" for c in [*EACH, "cover %"]), *(f"{c} inc" for c in EACH)]
ASKED_AGAIN = ["before the midpoint %", "before 90% of the rise %", "never %", "taken back %"]
ASKED_AGAIN += ["points after 90% of it", "mean shift before the midpoint %"]
#: Titles of the columns, curves, what makes a row of a curve, and how many are simulated for one.
TABLES = {
    "changes": (ERROR, CHANGES, change_row, 400),
    "alarms": ([f"{method} %" for method in METHODS], NO_CHANGES, no_change_row, 400),
    "online": (ASKED_AGAIN, ONLINE, online_row, 100),
}


def main(
    tables: tuple[Literal["changes", "alarms", "online"], ...] = ("changes", "alarms", "online"), only: str = ""
) -> None:
    """Everything, or some of the tables alone.

    Args:
        tables: which.
        only: rows whose name holds this text; the others stay as they are.
    """
    for name in tables:
        titles, kinds, row, repeats = TABLES[name]
        write(name, ["curve", *titles], [row(kind, repeats) for kind in kinds if only in kind.name], kinds)
    if len(tables) == len(TABLES) and not only:
        figure()
        timing()


if __name__ == "__main__":
    tyro.cli(main)
