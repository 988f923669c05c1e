"""Sudden convergence: when a net began to follow its map, with an interval, or plainly "not converged".

The ControlNet paper sees nets "suddenly" follow the condition within some tens of steps (section 3.3, figure 4) and
reads the moment off pictures. Here it is read off a validation curve of what the true map is worth over another
sample's map. The **step** is the midpoint of the rise: where the curve is half way from its level before to its level
after; the posterior of ``trainer.convergence.rise`` gives its interval. ``docs/convergence.md`` measures its error in
simulation.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import stats

from pipeline.contract.errors import CnlabError
from trainer.convergence.pair import LOST, Pair, change_quantiles, two_changes
from trainer.convergence.rise import Cells, Posterior, candidates, midpoint_quantiles, posterior, weighted_median

if TYPE_CHECKING:
    import pandas as pd

METHOD = "posterior of the midpoint of one rise (Zellner-Siow prior, trainer.convergence.rise)"
VERSION = 1
FEWEST = 6  # points: two before, two after, and two for the noise
SUDDEN = 3  # validation intervals that a sudden rise (10% to 90%) takes at most
FIRST = 3  # points whose mean says whether a curve has risen before its first point


class Curve(NamedTuple):
    """A validation curve: steps (T,), values (T,), their standard errors (T,) or None, and what the values are."""

    steps: np.ndarray
    values: np.ndarray
    errors: np.ndarray | None
    name: str


@dataclass(frozen=True)
class Convergence:
    """What a curve says. Steps are optimizer steps, levels are in the curve's unit; None where there is no rise."""

    converged: bool
    step: int | None  # midpoint of the rise; the first point where the curve had risen before it
    interval: tuple[int, int] | None  # of the step, with probability ``level``
    level: float
    probability: float  # that the curve rose within the run and levelled off
    before: float | None
    after: float | None
    onset: int | None  # 10% of the rise
    width: int | None  # steps from 10% to 90% of the rise; 0: too few to be seen at this spacing
    sudden: bool | None  # the rise takes at most SUDDEN validation intervals
    points: int
    reason: str
    method: str = METHOD
    version: int = VERSION

    def as_dict(self) -> dict[str, Any]:
        """For ``convergence.json``."""
        return {**asdict(self), "interval": None if self.interval is None else list(self.interval)}


def detect(
    steps: Any,
    values: Any,
    errors: Any = None,
    level: float = 0.95,
    *,
    floor: float = 0.0,
    least: float = 0.0,
) -> Convergence:
    """Whether and when the curve rose. Deterministic; may be asked again at each validation.

    ``steps`` (T,) increasing, >= 0; ``values`` (T,) and ``errors`` (T,), NaN where missing. The noise between points is
    estimated from the curve; ``errors`` weigh the points against each other (within a factor of two of their median,
    since they tell of pictures, not of steps), and a rise must exceed them. ``floor`` is the value of a net that
    ignores its map, used with ``errors`` to see that a curve had risen before its first point: 0 for a gap; a value at
    step 0, where the zero convolutions leave the prior as it is, replaces it. ``least`` is the smallest rise that
    counts, in the curve's unit.

    Raises CnlabError when lengths differ or steps do not increase. Too few points are "not converged", with the reason.
    """
    x, y, e = _checked(steps, values, errors, level)
    if len(x) < FEWEST:
        return _not(level, len(x), 0.0, f"{len(x)} points, at least {FEWEST} are needed")
    span = float(np.ptp(y))
    if span <= 1e-12 * float(np.abs(y).max()):
        y, span = np.full_like(y, y[0]), 1.0
    share = _share(y, e)
    fitted = posterior(x, (y - y[0]) / span, share, _candidates(x.tobytes()))
    settled = fitted.kinds["settled"] >= level
    before, after = (float(fitted.weight @ side) * span + float(y[0]) for side in (fitted.before, fitted.after))
    if e is not None:
        last = after if settled else float(y[-FIRST:].mean())
        early = _risen_before(x, y, e, last, floor, least, level)
        if early:
            return early
    pair = two_changes(x, (y - y[0]) / span, share, fitted)
    if pair is not None and pair.probability >= level:
        twice = _two_changes(x, e, pair, span, float(y[0]), least, level, fitted)
        if twice:
            return twice
    if not settled:
        return _not(level, len(x), fitted.kinds["settled"], _why_not(fitted))
    return _one_rise(x, e, fitted, (before, after), least, level)


def _one_rise(
    x: np.ndarray, e: np.ndarray | None, fitted: Posterior, levels: tuple[float, float], least: float, level: float
) -> Convergence:
    """What a settled rise between two levels says: its step and its width, or that it lies within the noise."""
    before, after = levels
    low, middle, high = midpoint_quantiles(fitted, [(1 - level) / 2, 0.5, (1 + level) / 2])
    needed = max(least, _needed(x, e, middle, level))
    if after - before <= needed:
        reason = f"the rise of {after - before:.3g} is within its noise ({needed:.3g} is needed)"
        return _not(level, len(x), fitted.kinds["settled"], reason)
    width = weighted_median(fitted.cells.width, fitted.weight)
    sudden = width <= SUDDEN * float(np.median(np.diff(x)))
    kind = "suddenly" if sudden else "gradually"
    return Convergence(
        converged=True,
        step=round(middle),
        interval=(math.floor(low), math.ceil(high)),
        level=level,
        probability=fitted.kinds["settled"],
        before=before,
        after=after,
        onset=max(round(min(weighted_median(fitted.cells.onset, fitted.weight), middle)), 0),
        width=round(width),
        sudden=sudden,
        points=len(x),
        reason=f"converged {kind} at step {round(middle)}: from {before:.3g} to {after:.3g}"
        + (f", 10-90% in {round(width)} steps" if width else ", between two points"),
    )


def _checked(steps: Any, values: Any, errors: Any, level: float) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Float arrays of the points that have a value; errors that are missing or not positive become their median."""
    x, y = np.asarray(steps, float), np.asarray(values, float)
    e = None if errors is None else np.asarray(errors, float)
    if x.ndim != 1 or x.shape != y.shape or (e is not None and e.shape != x.shape):
        shapes = ", ".join(str(a.shape) for a in (x, y, e) if a is not None)
        raise CnlabError(f"convergence: steps, values and errors have shapes {shapes}; give one of each a point")
    if not np.isfinite(x).all() or (np.diff(x) <= 0).any() or (x < 0).any():
        raise CnlabError("convergence: steps must be 0 or more and increase; sort the rows and keep one a step")
    if not 0 < level < 1:
        raise CnlabError(f"convergence: level {level} is not between 0 and 1; 0.95 is usual")
    present = np.isfinite(y)
    x, y = x[present], y[present]
    if e is None:
        return x, y, None
    e = e[present]
    good = np.isfinite(e) & (e > 0)
    return x, y, np.where(good, e, np.median(e[good])) if good.any() else None


def _share(y: np.ndarray, e: np.ndarray | None) -> np.ndarray:
    """Weights (T,) of the points, which sum to 1."""
    weights = np.ones_like(y) if e is None else np.clip(e / np.median(e), 0.5, 2) ** -2
    return weights / float(weights.sum())


@lru_cache(maxsize=8)
def _candidates(steps: bytes) -> Cells:
    """The grid depends on the steps alone."""
    return candidates(np.frombuffer(steps))


def _needed(x: np.ndarray, e: np.ndarray | None, middle: float, level: float) -> float:
    """The least difference of two levels that the pictures' own spread allows to be told apart; 0 without errors."""
    if e is None:
        return 0.0
    sides = [np.median(side) if side.size else np.median(e) for side in (e[x < middle], e[x >= middle])]
    return float(stats.norm.ppf((1 + level) / 2) * np.hypot(*sides))


def _risen_before(
    x: np.ndarray, y: np.ndarray, e: np.ndarray, last: float, floor: float, least: float, level: float
) -> Convergence | None:
    """Converged before the first point: the first points lie above the floor, and over half as high as the last."""
    if x[0] == 0:
        floor, x, y, e = float(y[0]), x[1:], y[1:], np.hypot(e[1:], e[0])
    first, last_height = float(y[:FIRST].mean()) - floor, last - floor
    needed = max(least, float(stats.norm.ppf((1 + level) / 2) * np.median(e)))
    if min(first, float(y[0]) - floor) <= max(needed, last_height / 2):
        return None
    top, end = _fallen(x, y, e, level)
    if top - end > needed and end - floor <= (1 - LOST) * (top - floor):
        return _not(level, len(x), 0.0, f"the curve falls, from {top:.3g} to {end:.3g}")
    if last_height <= needed:
        return None
    step = int(x[0])
    return Convergence(
        converged=True,
        step=step,
        interval=(0, step),
        level=level,
        probability=1.0,
        before=floor,
        after=last,
        onset=None,
        width=None,
        sudden=None,
        points=len(x),
        reason=f"already risen at the first point (step {step}): {first:.3g} above its floor, {needed:.3g} is noise",
    )


def _fallen(x: np.ndarray, y: np.ndarray, e: np.ndarray, level: float) -> tuple[float, float]:
    """Highest and last level, by the likeliest reading of all points: two changes, a fall, or neither.

    Means of the first and the last three points alone take a loss of 60% for less than half in one curve of ten.
    """
    span = float(np.ptp(y)) or 1.0
    scaled, share = (y - y[0]) / span, _share(y, e)
    fitted = posterior(x, scaled, share, _candidates(x.tobytes()))
    pair = two_changes(x, scaled, share, fitted)
    top, end = float(scaled[:FIRST].mean()), float(scaled[-FIRST:].mean())
    if pair is not None and pair.probability >= level:
        top, end = max(pair.levels[:2]), pair.levels[2]
    elif fitted.kinds["fall"] > 0.5:
        top, end = fitted.fall()
    return top * span + float(y[0]), end * span + float(y[0])


def _two_changes(
    x: np.ndarray, e: np.ndarray | None, pair: Pair, span: float, start: float, least: float, level: float,
    fitted: Posterior,
) -> Convergence | None:  # fmt: skip
    """The verdict on a curve that rises twice, or rises and falls again; None where it is neither, or within noise."""
    low, middle, high = (value * span + start for value in pair.levels)
    low_end, half, high_end = [(1 - level) / 2, 0.5, (1 + level) / 2]
    spots = [
        change_quantiles(x, places, pair.weight, [low_end, half, high_end]) for places in (pair.firsts, pair.seconds)
    ]
    needed = max(least, _needed(x, e, spots[0][1], level), _needed(x, e, spots[1][1], level))
    first, second = round(spots[0][1]), round(spots[1][1])
    rises = fitted.kinds["settled"] + fitted.kinds["rising"] + fitted.kinds["ramp"]
    if (pair.lost or (pair.up and fitted.kinds["settled"] < level)) and min(middle - low, middle - high) > needed:
        reason = f"the curve rose at step {first}, from {low:.3g} to {middle:.3g}, and fell at {second}, to {high:.3g}"
        return _not(level, len(x), 1 - pair.probability, reason)
    if not pair.twice or min(middle - low, high - middle) <= needed or rises < level:
        return None
    chosen = spots[0] if middle - low >= high - middle else spots[1]
    return Convergence(
        converged=True,
        step=round(chosen[1]),
        interval=(math.floor(chosen[0]), math.ceil(chosen[2])),
        level=level,
        probability=pair.probability,
        before=low,
        after=high,
        onset=first,
        width=second - first,
        sudden=second - first <= SUDDEN * float(np.median(np.diff(x))),
        points=len(x),
        reason=f"converged in two rises, at steps {first} and {second}: from {low:.3g} by {middle:.3g} to {high:.3g}",
    )


def _why_not(fitted: Posterior) -> str:
    """The likeliest other reading, in words."""
    kinds = fitted.kinds
    words = {
        "settled": f"a rise that levels off has probability {kinds['settled']:.2f} only",
        "rising": "a rise has begun and not levelled off",
        "flat": "the curve never rose above its level by more than its noise",
        "outlier": "the curve is flat but for one point",
        "ramp": "the curve climbs evenly and has not levelled off",
        "fall": "the curve falls",
    }
    return words[max(kinds, key=lambda kind: kinds[kind])]


def _not(level: float, points: int, probability: float, reason: str) -> Convergence:
    nothing: dict[str, Any] = dict.fromkeys(
        ("step", "interval", "before", "after", "onset", "width", "sudden"),
    )
    return Convergence(
        converged=False,
        level=level,
        probability=probability,
        points=points,
        reason=f"not converged: {reason}",
        **nothing,
    )


def gap_curve(table: pd.DataFrame) -> Curve:
    """The curve to judge, from a validation table (columns step, metric, arm, value, ci_low, ci_high, n).

    ``fidelity`` where the table has it: true minus shuffled; else ``loss_gap``: loss shuffled minus true. The error of
    an arm is the half width of its 95% t interval over the quantile. Rows of an arm ``gap`` (mean and interval of the
    paired differences) are taken as they are. Without them the two arms' errors are added in quadrature, which is
    conservative since both score the same pictures. For the loss that would be useless: pictures and timesteps differ
    in loss by far more than the map is worth, so there ``errors`` is None and the curve alone tells its noise.

    Raises CnlabError when neither metric has both arms.
    """
    for metric, name, sign in (("fidelity", "fidelity", 1.0), ("loss", "loss_gap", -1.0)):
        rows = table[table["metric"] == metric].drop_duplicates(["step", "arm"], keep="last").set_index("step")
        arms = {str(arm): part.sort_index() for arm, part in rows.groupby("arm")}
        if "gap" in arms:
            gap = arms["gap"]
            return Curve(gap.index.to_numpy(float), gap["value"].to_numpy(float), _errors(gap), name)
        if {"true", "shuffled"} <= arms.keys():
            steps = arms["true"].index.intersection(arms["shuffled"].index).sort_values()
            true, shuffled = arms["true"].loc[steps], arms["shuffled"].loc[steps]
            values = sign * (true["value"].to_numpy(float) - shuffled["value"].to_numpy(float))
            errors = np.hypot(_errors(true), _errors(shuffled)) if metric == "fidelity" else None
            return Curve(steps.to_numpy(float), values, errors, name)
    raise CnlabError(
        "validation table: neither fidelity nor loss has rows of the arms true and shuffled; validate again"
    )


def _errors(rows: pd.DataFrame) -> np.ndarray:
    """Standard errors (T,) from 95% t intervals of means of n; NaN where n < 2."""
    n = rows["n"].to_numpy(float)
    half = (rows["ci_high"].to_numpy(float) - rows["ci_low"].to_numpy(float)) / 2
    quantile = stats.t.ppf(0.975, np.maximum(n - 1, 1))
    result: np.ndarray = np.where(n > 1, half / quantile, np.nan)
    return result


def convergence_of(validation: pd.DataFrame) -> Convergence:
    """The change-point of a validation table.

    A net that does not start as the prior (Gaussian outputs, or trained before) has rows of an arm ``floor`` at step 0,
    by how much the prior's own pictures obey the map; its own value there is no floor.
    """
    floors = validation.loc[validation["arm"] == "floor", "value"]
    steps, values, errors, name = gap_curve(validation)
    if len(floors) and name == "fidelity":
        own = steps > 0
        return detect(steps[own], values[own], None if errors is None else errors[own], floor=float(floors.iloc[0]))
    return detect(steps, values, errors)
