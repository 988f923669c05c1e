"""Raters and items as random effects: vote tables drawn by the thousand, and their parameters from pilot votes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import expit

from user_study.design.trials import items_of_sheet

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(41)
WEIGHTS = WEIGHTS / WEIGHTS.sum()
CELLS = 4_000_000  # votes held at once


@dataclass(frozen=True)
class Population:
    """P(A wins) = expit(mu + rater + item), both effects normal on the logit scale.

    Attributes
    ----------
    rate : float
        Win rate of A over all raters and items, in (0, 1).
    rater_sd, item_sd : float
        Standard deviations of the effects, in logits.
    ties : float
        Share of votes that decide nothing, in [0, 1).
    """

    rate: float = 0.5
    rater_sd: float = 0.4
    item_sd: float = 0.8
    ties: float = 0.0

    @property
    def mu(self) -> float:
        """Logit at which the win rate over both effects is ``rate``."""
        sd = float(np.hypot(self.rater_sd, self.item_sd))
        return float(brentq(lambda mu: WEIGHTS @ expit(mu + sd * NODES) - self.rate, -30, 30))


@dataclass(frozen=True)
class Crossing:
    """Who judges what: rater and item number of each of n votes."""

    rater: NDArray[np.intp]
    item: NDArray[np.intp]


def crossing(raters: int, per_rater: int, pool: int, sides: int = 2) -> Crossing:
    """The votes of ``raters`` who fill one sheet each, as `user_study.design.trials.items_of_sheet` deals them."""
    names = [str(n) for n in range(pool)]
    items = [[int(i) for i in items_of_sheet(names, per_rater, sheet, sides)] for sheet in range(raters)]
    return Crossing(np.repeat(np.arange(raters), per_rater), np.array(items).ravel())


def draw_votes(
    population: Population, who: Crossing, repetitions: int, seed: int
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    """Vote tables (B, n) in parts, 1 where A won, and which votes decided."""
    rng, mu = np.random.default_rng(seed), population.mu
    part = max(1, CELLS // who.rater.size)
    for start in range(0, repetitions, part):
        size = min(part, repetitions - start)
        raters = rng.normal(0, population.rater_sd, (size, int(who.rater.max()) + 1))
        items = rng.normal(0, population.item_sd, (size, int(who.item.max()) + 1))
        votes = rng.random((size, who.rater.size)) < expit(mu + raters[:, who.rater] + items[:, who.item])
        yield votes.astype(np.float64), rng.random(votes.shape) >= population.ties


def fit_population(wins: ArrayLike, rater: ArrayLike, item: ArrayLike, ties: float = 0.0) -> Population:
    """Population of pilot votes by the method of moments.

    The covariance of two votes of one rater (on different items) is Var over raters of their expected vote; that of two
    votes on one item likewise. Both are solved for the deviations on the logit scale; negative ones count as zero.

    Parameters
    ----------
    wins
        (n,) decided votes, 1 where A won.
    rater, item
        (n,) labels.
    ties
        Share of undecided votes.
    """
    votes = np.asarray(wins, dtype=np.float64)
    rate = float(np.clip(votes.mean(), 0.02, 0.98))
    residual = votes - votes.mean()
    targets = [max(0.0, _pair_covariance(residual, labels)) for labels in (rater, item)]
    sds = [0.0, 0.0]
    for _ in range(6):  # each depends weakly on the other
        for this, other in ((0, 1), (1, 0)):
            sds[this] = _solve_sd(rate, targets[this], sds[other])
    return Population(rate, sds[0], sds[1], ties)


def _pair_covariance(residual: NDArray[np.float64], labels: ArrayLike) -> float:
    groups = np.unique(np.asarray(labels), return_inverse=True)[1]
    sums, squares, sizes = (np.bincount(groups, weights=w) for w in (residual, residual**2, np.ones_like(residual)))
    pairs = float((sizes * (sizes - 1)).sum())
    return float((sums**2 - squares).sum()) / pairs if pairs else 0.0


def _solve_sd(rate: float, target: float, other_sd: float) -> float:
    def excess(sd: float) -> float:
        mu = Population(rate, sd, other_sd).mu
        expected = expit(mu + sd * NODES[:, None] + other_sd * NODES[None, :]) @ WEIGHTS
        return float(WEIGHTS @ (expected - rate) ** 2) - target

    return 0.0 if target <= 0 or excess(1e-6) >= 0 else float(brentq(excess, 1e-6, 6)) if excess(6) > 0 else 6.0
