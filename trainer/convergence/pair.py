"""Two changes in a curve: a second rise, or a fall that takes back the first.

Candidates are constant pieces, ``level`` 0, 1, 2, between every two places at least `SEGMENT` points apart; levels are
least squares, so each candidate's probability follows from its R^2 as in `trainer.convergence.rise`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from trainer.convergence.rise import Posterior, independent_points, log_bayes_factor, log_sum_exp

SEGMENT = 3  # points of a piece, at least: fewer cannot be told from outliers
PRIOR = 0.1  # of two changes, even over their places; a tenth of what all single ones have
PART = 0.25  # share of the whole rise that each of two rises has, at least
LOST = 0.5  # share of a rise whose fall takes it back


@dataclass(frozen=True)
class Pair:
    """The likeliest two changes: before points ``first`` and ``second``; levels; probability against single ones."""

    first: int
    second: int
    levels: tuple[float, float, float]
    probability: float
    firsts: np.ndarray  # (P,) of every pair of places, with the probability of each: `weight`
    seconds: np.ndarray
    weight: np.ndarray

    @property
    def twice(self) -> bool:
        """Two rises, each a fair part of the whole."""
        low, middle, high = self.levels
        return min(middle - low, high - middle) >= PART * (high - low) > 0

    @property
    def up(self) -> bool:
        """A rise, and a fall."""
        low, middle, end = self.levels
        return low < middle > end

    @property
    def lost(self) -> bool:
        """A rise whose greater part is taken back."""
        low, middle, end = self.levels
        return self.up and middle - end >= LOST * (middle - low)


def two_changes(steps: np.ndarray, y: np.ndarray, share: np.ndarray, fitted: Posterior) -> Pair | None:
    """Of the curve y (T,), whose weights ``share`` (T,) sum to 1; ``fitted``: what single changes make of it.

    None where there are too few points.
    """
    points, head = len(steps), 1 if steps[0] == 0 else SEGMENT  # at step 0 the net is the prior: a level of its own
    starts = np.arange(points)
    firsts, seconds = np.meshgrid(starts, starts, indexing="ij")
    usable = (firsts >= head) & (seconds - firsts >= SEGMENT) & (points - seconds >= SEGMENT)
    if not usable.any():
        return None
    firsts, seconds = firsts[usable], seconds[usable]
    mass, total = (np.concatenate([[0.0], np.cumsum(part)]) for part in (share, share * (y - y @ share)))
    bounds = [np.zeros_like(firsts), firsts, seconds, np.full_like(firsts, points)]
    pieces = [(total[b] - total[a], mass[b] - mass[a]) for a, b in pairwise(bounds)]
    explained = sum(moved**2 / weight for moved, weight in pieces)
    variance = max(float(share @ (y - y @ share) ** 2), 1e-300)
    r2 = np.clip(np.asarray(explained) / variance, 0, 1)
    best = int(np.argmax(r2))
    first, second = int(firsts[best]), int(seconds[best])
    levels = [float(moved[best] / weight[best] + y @ share) for moved, weight in pieces]
    fit = np.repeat(levels, [first, second - first, points - second])
    n = independent_points(np.sqrt(share) * (y - fit))
    logs = log_bayes_factor(r2, 2, n) + math.log(PRIOR / len(r2))
    single = fitted.evidence(n)
    weight = np.exp(logs - logs.max())
    probability = 1 / (1 + math.exp(min(single - log_sum_exp(logs), 700.0)))
    return Pair(first, second, (levels[0], levels[1], levels[2]), probability, firsts, seconds, weight / weight.sum())


def change_quantiles(steps: np.ndarray, before: np.ndarray, weight: np.ndarray, at: list[float]) -> list[float]:
    """Quantiles in steps of a change before points ``before`` (P,), evenly spread between two points."""
    edges = np.concatenate([[0.0], steps]) if steps[0] > 0 else steps
    offset = 1 if steps[0] > 0 else 0
    chances = np.bincount(before + offset - 1, weight, len(edges) - 1)
    below = np.concatenate([[0.0], np.cumsum(chances)])
    return [float(q) for q in np.interp(np.asarray(at) * below[-1], below, edges)]
