"""Posterior of one rise in a curve: midpoint, width, levels, and whether there is a rise at all, in closed form.

Candidate curves are ``before + rise * S((step - midpoint) / width)``, S a step, a logistic or a saturating exponential,
on a grid of midpoints and widths, the logistic also with a slow further rise. Against them stand a flat curve, a flat
curve with one outlier, a straight ramp and a fall. Levels and noise variance are integrated out under Zellner and
Siow's prior, so a candidate's weight depends on its R^2 alone and nothing is sampled or iterated.

Liang, Paulo, Molina, Clyde & Berger 2008, "Mixtures of g priors for Bayesian variable selection", JASA 103.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

SETTLED = 2  # points that must lie beyond 90% of the rise: one alone cannot be told from an outlier
LEAST_NOISE = 1e-9  # 1 - R^2 is not taken below it, so that a noise-free curve has a finite likelihood
#: Prior probability of each kind of curve. That of a rise is spread evenly over midpoint and log width.
PRIOR = {"rise": 0.5, "flat": 0.2, "outlier": 0.2, "ramp": 0.1}
SHARE = {"logistic": 0.4, "slow": 0.3, "exponential": 0.3}  # of the rise, by shape
LOGISTIC = 2 * math.log(9)  # S(z) = 1 / (1 + exp(-LOGISTIC z)) rises from 10% to 90% over a width of 1
EXPONENTIAL = math.log(9)  # so does S(z) = 1 - exp(-EXPONENTIAL z - ln 2), which is 1/2 at z = 0
#: Places of 10% and 90% about the midpoint, in widths.
REACH = {"logistic": (-0.5, 0.5), "exponential": (math.log(5 / 9) / EXPONENTIAL, math.log(5) / EXPONENTIAL)}
FURTHER = 2.0  # the slow further rise is 1 - exp(-FURTHER u), u from 0 at the midpoint to 1 at the last point


@dataclass(frozen=True)
class Cells:
    """Candidate rises, one a row: columns (K, T) in 0..1; parameters (K,) in steps; log prior (K,)."""

    columns: np.ndarray
    slow: np.ndarray  # (K, T) column of the slow further rise, zero where there is none
    middle: np.ndarray
    width: np.ndarray  # from 10% to 90% of the rise; 0 for a step
    onset: np.ndarray  # 10% of the rise
    settled: np.ndarray  # 90% of the rise
    log_prior: np.ndarray
    low: np.ndarray  # (K,) bounds of the midpoint's cell
    high: np.ndarray


@dataclass(frozen=True)
class Posterior:
    """Probability of each kind of curve, and of each settled rise (K,) with its levels (K,)."""

    kinds: dict[str, float]  # settled, rising, flat, outlier, ramp, fall; they sum to 1
    cells: Cells
    weight: np.ndarray  # (K,) probability given that the curve has risen and settled
    before: np.ndarray
    after: np.ndarray
    terms: Terms
    ends: np.ndarray  # (K + 1, 2) first and last point by each candidate, settled or not, and by the ramp
    n: float  # independent points

    def fall(self) -> tuple[float, float]:
        """Height at the first and at the last point, by the candidates that fall."""
        terms = self.terms
        logs = np.append(np.where(terms.up, -math.inf, terms.weight(self.n)), terms.ramp(self.n))
        logs[-1] = -math.inf if terms.ramp_up else logs[-1]
        first, last = np.exp(logs - log_sum_exp(logs)) @ self.ends
        return float(first), float(last)

    def evidence(self, n: float) -> float:
        """Log of the evidence of all these kinds together, were the curve's points worth ``n`` independent ones."""
        return log_sum_exp(np.array(list(self.terms.logs(n).values())))


@dataclass(frozen=True)
class Terms:
    """What the evidence of each kind follows from, whatever the points are worth."""

    cells: Cells
    r2: np.ndarray
    two: np.ndarray  # (K,) two columns
    usable: np.ndarray
    up: np.ndarray
    settled: np.ndarray
    r2_single: np.ndarray
    r2_ramp: np.ndarray
    ramp_up: bool

    def weight(self, n: float) -> np.ndarray:
        """Log weight (K,) of each candidate rise or fall against the flat curve."""
        factor = np.where(self.two, log_bayes_factor(self.r2, 2, n), log_bayes_factor(self.r2, 1, n))
        return np.where(self.usable, self.cells.log_prior + factor, -math.inf)

    def ramp(self, n: float) -> float:
        """Log weight of the straight ramp, up or down."""
        return math.log(PRIOR["ramp"]) + float(log_bayes_factor(self.r2_ramp, 1, n)[0])

    def logs(self, n: float) -> dict[str, float]:
        """Log evidence of each kind of curve against the flat one."""
        weight, single = self.weight(n), math.log(PRIOR["outlier"] / len(self.r2_single))
        fall = log_sum_exp(weight[~self.up])
        ramp = self.ramp(n)
        return {
            "settled": log_sum_exp(weight[self.up & self.settled]),
            "rising": log_sum_exp(weight[self.up & ~self.settled]),
            "flat": math.log(PRIOR["flat"]),
            "outlier": log_sum_exp(single + log_bayes_factor(self.r2_single, 1, n)),
            "ramp": ramp if self.ramp_up else -math.inf,
            "fall": fall if self.ramp_up else float(np.logaddexp(fall, ramp)),
        }


def grid(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Widths and the bounds of the midpoints' cells, each (N,).

    Midpoints reach from step 0 to half a run beyond the last point; their cells divide the gaps between points, and for
    wide rises are joined to at most a sixteenth of the width. Widths reach from the spacing of the points to the run,
    at most a factor 1.3 apart: coarser, a smooth curve fits no candidate and its misfit passes for noise.
    """
    edges = np.concatenate([[0.0], steps]) if steps[0] > 0 else steps
    span, gap = steps[-1] - steps[0], float(np.median(np.diff(steps)))
    fine = max(2, min(8, round(200 / len(steps))))  # cells in each gap between two points
    bounds = np.interp(np.arange((len(edges) - 1) * fine + 1) / fine, np.arange(len(edges)), edges)
    bounds = np.concatenate([bounds, steps[-1] + span * np.arange(1, 21) / 40])
    widest = max(1.2 * span, 2 * gap)
    widths = np.geomspace(gap, widest, math.ceil(math.log(widest / gap) / math.log(1.3)) + 1)
    parts = [(0.0, bounds[:-1], bounds[1:])]
    for w in widths:
        joined = bounds[:: max(1, int(w / 16 * fine / gap))]
        joined = joined if joined[-1] == bounds[-1] else np.append(joined, bounds[-1])
        parts.append((float(w), joined[:-1], joined[1:]))
    width = np.concatenate([np.full(len(low), w) for w, low, _ in parts])
    return width, np.concatenate([low for _, low, _ in parts]), np.concatenate([high for _, _, high in parts])


def candidates(steps: np.ndarray) -> Cells:
    """Every candidate rise over increasing ``steps`` (T,)."""
    w, low, high = grid(steps)
    m, gap = (low + high) / 2, float(np.median(np.diff(steps)))
    even = np.log((high - low) / (high - low).sum())
    z = (steps - m[:, None]) / np.maximum(w, 1e-3 * gap)[:, None]  # (K, T)
    logistic = expit(LOGISTIC * z)
    exponential = 1 - np.exp(-np.maximum(EXPONENTIAL * z + math.log(2), 0))
    u = np.maximum(steps - m[:, None], 0) / np.maximum(steps[-1] - m, gap)[:, None]
    none = np.zeros_like(u)
    reach = [REACH["logistic"], REACH["logistic"], REACH["exponential"]]
    return Cells(
        columns=np.concatenate([logistic, logistic, exponential]),
        slow=np.concatenate([none, 1 - np.exp(-FURTHER * u), none]),
        middle=np.tile(m, 3),
        width=np.tile(w, 3),
        onset=np.concatenate([m + tenth * w for tenth, _ in reach]),
        settled=np.concatenate([m + most * w for _, most in reach]),
        log_prior=np.concatenate([even + math.log(PRIOR["rise"] * SHARE[shape]) for shape in SHARE]),
        low=np.tile(low, 3),
        high=np.tile(high, 3),
    )


def least_squares(
    y: np.ndarray, share: np.ndarray, x: np.ndarray, slow: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """R^2, intercept and two slopes, each (K,), of y (T,) on a row of x (K, T) and of slow; ``share`` (T,) sums to 1.

    A slow column that is zero or collinear with x gets slope 0.
    """
    y_mean, x_mean = y @ share, x @ share
    weighted = share * (y - y_mean)
    total = max(float(weighted @ (y - y_mean)), 1e-300)
    xx, xy = (x * x) @ share - x_mean**2, x @ weighted
    varies = xx > 1e-12
    h = np.where(varies, xy / np.where(varies, xx, 1), 0)
    if slow is None:
        return np.clip(h * xy / total, 0, 1), y_mean - h * x_mean, h, np.zeros_like(h)
    s_mean = slow @ share
    ss, sy = (slow * slow) @ share - s_mean**2, slow @ weighted
    sx = np.einsum("kt,kt,t->k", slow, x, share) - s_mean * x_mean
    determinant = xx * ss - sx**2
    determined = varies & (determinant > 1e-9 * xx)
    safe = np.where(determined, determinant, 1)
    h = np.where(determined, (xy * ss - sy * sx) / safe, h)
    g = np.where(determined, (sy * xx - xy * sx) / safe, 0)
    return np.clip((h * xy + g * sy) / total, 0, 1), y_mean - h * x_mean - g * s_mean, h, g


def log_bayes_factor(r2: np.ndarray, columns: int, n: float) -> np.ndarray:
    """Against the flat curve, of curves with ``columns`` columns that explain r2 (K,) of the variance of n points.

    Zellner and Siow's prior as a mixture of g-priors, g ~ inverse gamma(1/2, n/2) (Liang et al. 2008, equation 6 and
    section 3.1): the trapezium rule over log g, tabulated over 1 - R^2.
    """
    log_g = math.log(n) + np.linspace(-5, 25, 31)
    density = 0.5 * math.log(n / 2) - math.lgamma(0.5) - 0.5 * log_g - n / 2 * np.exp(-log_g)  # of log g
    log_unexplained = np.linspace(math.log(LEAST_NOISE), 0, 400)
    odds = np.log1p(np.exp(log_g + log_unexplained[:, None]))
    given_g = (n - 1 - columns) / 2 * np.log1p(np.exp(log_g)) - (n - 1) / 2 * odds
    table = np.logaddexp.reduce(given_g + density, axis=1) + math.log(log_g[1] - log_g[0])
    result: np.ndarray = np.interp(np.log(np.maximum(1 - r2, LEAST_NOISE)), log_unexplained, table)
    return result


def independent_points(residuals: np.ndarray) -> float:
    """How many independent points T correlated ones are worth: T (1 - r) / (1 + r), r their lag-1 autocorrelation.

    The residuals are those of the likeliest curve: what drifts, or a shape that no candidate has, shows as correlation.
    r is kept within 0 and 0.6, for at high fidelity to a smooth curve all residuals are misfit.
    """
    r = float(residuals[1:] @ residuals[:-1]) / max(float(residuals @ residuals), 1e-300)
    r = min(max(r, 0.0), 0.6)
    return max(len(residuals) * (1 - r) / (1 + r), 6.0)


def log_sum_exp(log_weights: np.ndarray) -> float:
    """Log of the sum; minus infinity of nothing."""
    return float(np.logaddexp.reduce(log_weights)) if log_weights.size else -math.inf


def posterior(steps: np.ndarray, y: np.ndarray, share: np.ndarray, cells: Cells) -> Posterior:
    """Of the curve y (T,) over ``steps`` (T,), whose weights ``share`` (T,) sum to 1."""
    points = len(steps)
    r2, before, rise, more = least_squares(y, share, cells.columns, cells.slow)
    two = cells.slow.any(axis=1)
    within_run = cells.columns.max(axis=1) - cells.columns.min(axis=1)  # share of the rise within the run
    further = (1 - math.exp(-FURTHER)) * more
    usable = (within_run >= 0.2) & (cells.columns[:, 0] <= 0.8) & ~(two & ((more <= 0) | (further > np.abs(rise))))
    single = np.eye(points)[
        1 if steps[0] == 0 else 0 :
    ]  # at step 0 the zero convolutions make the net the prior: no outlier
    ramp = ((steps - steps[0]) / (steps[-1] - steps[0]))[None]
    r2_single = least_squares(y, share, single)[0]
    r2_ramp, start, slope, _ = least_squares(y, share, ramp)

    likeliest = int(np.argmax(np.where(usable, r2, -1)))
    fit = before[likeliest] + rise[likeliest] * cells.columns[likeliest] + more[likeliest] * cells.slow[likeliest]
    ends = before[:, None] + rise[:, None] * cells.columns[:, [0, -1]] + more[:, None] * cells.slow[:, [0, -1]]
    n = independent_points(np.sqrt(share) * (y - fit))
    settled = np.searchsorted(steps, cells.settled, "left") <= points - SETTLED
    terms = Terms(cells, r2, np.asarray(two), usable, rise > 0, settled, r2_single, r2_ramp, bool(slope[0] > 0))
    logs = terms.logs(n)
    everything = log_sum_exp(np.array(list(logs.values())))
    chosen = np.where(terms.up & settled, terms.weight(n), -math.inf)
    return Posterior(
        kinds={kind: math.exp(value - everything) for kind, value in logs.items()},
        cells=cells,
        weight=np.exp(chosen - max(logs["settled"], -1e300)),
        before=before,
        after=before + rise,
        terms=terms,
        ends=np.append(ends, [[start[0], start[0] + slope[0]]], axis=0),
        n=n,
    )


def midpoint_quantiles(fitted: Posterior, at: list[float]) -> list[float]:
    """Quantiles of the midpoint in steps, taken as evenly spread within a cell of the grid."""
    likely = fitted.weight > 1e-7
    low, high, weight = fitted.cells.low[likely], fitted.cells.high[likely], fitted.weight[likely]
    bounds = np.unique(np.concatenate([low, high]))
    below = np.clip((bounds[:, None] - low) / (high - low), 0, 1) @ weight
    return [float(q) for q in np.interp(np.asarray(at) * below[-1], below, bounds)]


def weighted_median(values: np.ndarray, weight: np.ndarray) -> float:
    """Of ``values`` (K,)."""
    order = np.argsort(values, kind="stable")
    below = np.cumsum(weight[order])
    return float(values[order][np.searchsorted(below, below[-1] / 2)])
