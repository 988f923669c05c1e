"""A score on the scale from floor to ceiling, with one interval for all three."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from evaluation.metrics.checks import Floats, same_shape, vector
from evaluation.metrics.intervals import LEVEL, RESAMPLES, SEED, Estimate
from pipeline.contract.errors import CnlabError


def normalised_score(value: ArrayLike, floor: ArrayLike, ceiling: ArrayLike, seed: int = SEED) -> Estimate:
    """(mean value - mean floor) / (mean ceiling - mean floor) with a joint bootstrap interval.

    Parameters
    ----------
    value, floor, ceiling : (N,) array
        Scores of the same samples: under test, with the wrong condition, and of the real images.
    seed : int
        Of the resampling.

    Returns
    -------
    Estimate
        0 at the floor, 1 at the ceiling. Percentile limits: samples are drawn with all three of their scores,
        because the same scenes are easy for all three.
    """
    arrays = [vector(a, "normalised score") for a in (value, floor, ceiling)]
    for other in arrays[1:]:
        same_shape(arrays[0], other, "normalised score")
    n = len(arrays[0])
    scores = np.stack(arrays, axis=1)  # (N, 3)
    means = scores.mean(axis=0)
    if means[2] <= means[1]:
        raise CnlabError(f"normalised score: the ceiling {means[2]:.4g} is not above the floor {means[1]:.4g}")
    if n == 1:
        return Estimate(float(_ratio(means)), None, None, 1)
    # (R, N) multiplicities: how often each sample is in each bootstrap sample
    times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    resampled = times @ scores / n  # (R, 3)
    ratios = _ratio(resampled[resampled[:, 2] > resampled[:, 1]])  # floor above ceiling by chance: no scale to speak of
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return Estimate(float(_ratio(means)), float(low), float(high), n)


def _ratio(means: Floats) -> Floats:
    """(..., 3) value, floor, ceiling -> (...)."""
    return np.asarray((means[..., 0] - means[..., 1]) / (means[..., 2] - means[..., 1]))
