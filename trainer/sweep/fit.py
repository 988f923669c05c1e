"""How many more images for X? A power law with a ceiling through the learning curve, only where the data allow it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import optimize

from trainer.sweep.stats import mean_interval

SIZES, SEEDS = 3, 3  # the fewest for an estimate
EXPONENTS = (0.02, 5.0)  # between a line in log n and a jump to the ceiling
BOOTSTRAP, BOOTSTRAP_SEED = 1000, 20_260
GAIN = 0.1  # asked for unless told otherwise: a tenth above what the largest size reached


class PowerLaw(NamedTuple):
    """y(n) = ceiling - span * (n / scale) ** -exponent."""

    ceiling: float
    span: float
    exponent: float
    scale: float

    def images(self, value: float) -> float:
        """Size at which the curve reaches ``value``; infinite from the ceiling on."""
        if self.span <= 0 or value >= self.ceiling:
            return math.inf
        return float(self.scale * ((self.ceiling - value) / self.span) ** (-1 / self.exponent))


@dataclass(frozen=True)
class Estimate:
    """Images it takes to reach ``target``; None with the reason where the sweep cannot say."""

    arm: str
    metric: str
    reason: str
    target: float | None = None
    images: float | None = None  # infinite: above the fitted ceiling
    ci_low: float | None = None
    ci_high: float | None = None
    ceiling: float | None = None
    exponent: float | None = None
    seeds: int = 0
    sizes: int = 0

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: JSON has no infinity."""
        plain = asdict(self)
        return {k: "inf" if isinstance(v, float) and math.isinf(v) else v for k, v in plain.items()}


def fit_power_law(sizes: ArrayLike, values: ArrayLike) -> PowerLaw:
    """Least squares through (K,) sizes > 0 and (K,) values, K >= 3: linear in ceiling and span, one search over c.

    The form is that of learning-curve studies (Hestness et al. 2017, with a sign: fidelity grows where error falls).
    """
    n, y = np.asarray(sizes, float), np.asarray(values, float)
    x = n / n.max()

    def solve(log_c: float) -> tuple[float, float, float]:
        z = -(x ** -math.exp(log_c))
        z = z - z.mean()
        span = max(float(z @ (y - y.mean()) / (z @ z)), 0.0)
        return float(((y - y.mean() - span * z) ** 2).sum()), span, float((x ** -math.exp(log_c)).mean())

    low, high = (math.log(c) for c in EXPONENTS)
    # the sum of squares may have two valleys: the best of a grid first, then down into that one
    grid = np.linspace(low, high, 60)
    best = int(np.argmin([solve(c)[0] for c in grid]))
    around = (float(grid[max(best - 1, 0)]), float(grid[min(best + 1, len(grid) - 1)]))
    found = optimize.minimize_scalar(lambda c: solve(c)[0], bounds=around, method="bounded")
    log_c = min((float(found.x), float(grid[best])), key=lambda c: solve(c)[0])
    _, span, mean = solve(log_c)
    return PowerLaw(float(y.mean()) + span * mean, span, math.exp(log_c), float(n.max()))


def estimate(values: pd.DataFrame, arm: str, metric: str, target: float | None = None) -> Estimate:
    """From final values, training seeds down and sizes across; only seeds with every size count.

    The interval is the percentile bootstrap over seeds, all sizes of a seed together; with three seeds it has ten
    different resamples and is rather too narrow than too wide.
    """
    whole = values.dropna()
    sizes, seeds = whole.shape[1], whole.shape[0]
    shape = {"seeds": seeds, "sizes": sizes}
    if sizes < SIZES or seeds < SEEDS:
        few = " and ".join(
            f"{have} {what}, at least {least} are needed"
            for have, least, what in ((sizes, SIZES, "sizes"), (seeds, SEEDS, "complete seeds"))
            if have < least
        )
        return Estimate(arm, metric, f"too few to say: {few}", **shape)
    gain = mean_interval(whole.iloc[:, -1] - whole.iloc[:, 0])
    if gain.ci_low <= 0:
        return Estimate(
            arm, metric, "no growth from the smallest to the largest size beyond the noise of seeds", **shape
        )
    numbers, table = whole.columns.to_numpy(float), whole.to_numpy(float)
    best = table[:, -1].mean()
    wanted = best + GAIN * abs(best) if target is None else target
    fitted = fit_power_law(numbers, table.mean(0))

    @cache
    def resampled(counts: tuple[tuple[int, int], ...]) -> float:
        weights = np.array([dict(counts).get(i, 0) for i in range(seeds)], float)
        return fit_power_law(numbers, weights @ table / seeds).images(wanted)

    rng = np.random.default_rng(BOOTSTRAP_SEED)
    draws = rng.integers(seeds, size=(BOOTSTRAP, seeds))
    images = np.array([resampled(tuple(sorted(Counter(draw.tolist()).items()))) for draw in draws])
    # order statistics, for there is no mean of a number and infinity
    low, high = (float(np.quantile(images, q, method="inverted_cdf")) for q in (0.025, 0.975))
    return Estimate(
        arm, metric, f"power law with a ceiling, {sizes} sizes, {seeds} seeds", wanted, fitted.images(wanted), low,
        high, fitted.ceiling, fitted.exponent, **shape,
    )  # fmt: skip
