"""Do 95% intervals cover 95%? Simulated laws, and real scores and features that are resampled; a Markdown table.

``python -m benchmarks.intervals [--pool N] [--repetitions R]``. The truth is known: the mean of the law; for set
distances the mean of the estimate over the repetitions, since an interval describes the spread around the value at that
n, not at infinity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import log

import cv2
import numpy as np
import tyro

from evaluation.judges.features import extract, lite0_extractor
from evaluation.metrics.curves import crossing
from evaluation.metrics.frechet import frechet_difference, frechet_estimate
from evaluation.metrics.intervals import Estimate, mean_interval, paired_difference, seed_interval
from evaluation.metrics.kernel import kernel_difference, kernel_estimate
from evaluation.metrics.mind import mind_set_distance
from pipeline.contract.pictures import Pictures
from pipeline.contract.text import markdown_table
from pipeline.fidelity import annotator_of, fidelity
from pipeline.sources.tabletop import Tabletop

TARGET = (0.93, 0.98)
WORLD = 91  # of the rendered pool
SIZES = (4, 16, 64, 256, 1024, 4096)
Draw = Callable[[np.random.Generator], Estimate]
Floats = np.ndarray


@dataclass(frozen=True)
class Case:
    """One line of the table; ``truth`` None: the mean of the estimates."""

    what: str
    law: str
    n: str
    draw: Draw
    truth: float | None = None
    repetitions: int = 0


def coverage(case: Case, seed: int = 7) -> tuple[float, float, int]:
    """Share of intervals that hold the truth, its binomial standard error, and repetitions."""
    rng = np.random.default_rng(seed)
    estimates = [case.draw(rng) for _ in range(case.repetitions)]
    truth = float(np.mean([e.value for e in estimates])) if case.truth is None else case.truth
    held = [(e.low is None or e.low <= truth) and (e.high is None or truth <= e.high) for e in estimates]
    share = float(np.mean(held))
    return share, (share * (1 - share) / len(held)) ** 0.5, len(held)


def mean_cases(scores: Floats, repetitions: int) -> Iterator[Case]:
    """Means of pictures, and paired differences."""
    laws: dict[str, tuple[Callable[[np.random.Generator, int], Floats], float]] = {
        "normal": (lambda g, n: g.normal(size=n), 0.0),
        "exponential": (lambda g, n: g.exponential(size=n), 1.0),
        "Student, 3 degrees": (lambda g, n: g.standard_t(3, size=n), 0.0),
        "real fidelity scores": (lambda g, n: g.choice(scores, n), float(scores.mean())),
    }
    for law, (sample, truth) in laws.items():
        for n in (16, 64, 256):
            yield Case(
                "mean (BCa)",
                law,
                str(n),
                lambda g, s=sample, n=n: mean_interval(s(g, n), resamples=1000),
                truth,
                repetitions,
            )

    def pair(g: np.random.Generator, n: int) -> Estimate:
        scene = g.normal(0, 3, n)
        return paired_difference(scene + g.exponential(size=n), scene + g.exponential(size=n))

    yield Case(
        "paired difference", "exponential noise, shared scenes", "64", lambda g: pair(g, 64), 0.0, repetitions // 2
    )


def set_cases(pools: tuple[Floats, Floats, Floats], repetitions: int) -> Iterator[Case]:
    """Set distances and their differences: Gaussian, heavy tails, real features that are resampled."""
    scale = np.arange(1, 129) ** -0.5

    def gauss(g: np.random.Generator, n: int, shift: float) -> Floats:
        return (g.normal(size=(n, 128)) + shift) * scale

    def heavy(g: np.random.Generator, n: int, shift: float) -> Floats:
        return (g.standard_t(4, size=(n, 128)) + shift) * scale

    def real(g: np.random.Generator, n: int, shift: float) -> Floats:
        return pools[0 if shift == 0 else 1][g.integers(len(pools[0]), size=n)]

    measures: dict[str, Callable[..., Estimate]] = {
        "Frechet": lambda x, y: frechet_estimate(x, y, paired=False),
        "kernel": lambda x, y: kernel_estimate(x, y, paired=False),
        "MIND": lambda x, y: mind_set_distance(x, y, 50).estimate(),
    }
    for law, sample in (("Gaussian, D = 128", gauss), ("Student 4, D = 128", heavy), ("real features, D = 1280", real)):
        for n, m in ((64, 64), (64, 200), (200, 200), *(((1200, 1200),) if law[0] == "G" else ())):
            for name, measure in measures.items():
                yield Case(
                    name,
                    law,
                    f"{n}, {m}",
                    lambda g, s=sample, f=measure, n=n, m=m: f(s(g, n, 0.3), s(g, m, 0.0)),
                    None,
                    repetitions,
                )

    def arms(g: np.random.Generator) -> tuple[Floats, Floats, Floats]:
        rows = g.integers(len(pools[0]), size=128)
        return pools[1][rows], pools[2][rows], pools[0][rows]

    for name, difference in (("Frechet", frechet_difference), ("kernel", kernel_difference)):
        yield Case(
            f"{name}, difference of two arms",
            "real features, same scenes",
            "128",
            lambda g, f=difference: f(*arms(g)),
            None,
            repetitions,
        )


def seed_cases(repetitions: int) -> Iterator[Case]:
    """Means over training seeds, and "how many images"."""
    linear = np.array([0.2, 0.4, 0.52, 0.60, 0.64, 0.65])
    level = 0.95 * linear[-1]
    at = float(np.exp(np.interp(level, linear, np.log(SIZES))))

    def images(g: np.random.Generator, seeds: int) -> Estimate:
        y = linear + g.normal(0, 0.02, (seeds, 6)) + g.normal(0, 0.02, (seeds, 1))
        size = crossing(SIZES, y - 0.95 * y[:, -1:])
        low, high = (None if end is None else log(end) for end in (size.low, size.high))
        return Estimate(log(size.value or SIZES[0]), low, high, seeds)

    for seeds in (3, 5, 8):
        yield Case(
            "mean over seeds (t)",
            "normal",
            str(seeds),
            lambda g, s=seeds: seed_interval(g.normal(size=s)),
            0.0,
            repetitions,
        )
        yield Case(
            "mean over seeds (t)",
            "exponential",
            str(seeds),
            lambda g, s=seeds: seed_interval(g.exponential(size=s)),
            1.0,
            repetitions,
        )
        yield Case("how many images", "six sizes", str(seeds), lambda g, s=seeds: images(g, s), log(at), repetitions)


def real_pool(count: int) -> tuple[tuple[Floats, Floats, Floats], Floats]:
    """Lite0 features of renders and of two worse copies, and fidelity of the first copy to the renders' edges."""
    world = Tabletop(WORLD, 128)
    images: Pictures = np.stack([world.load(key).image for key in world.keys()[:count]])
    blurred: Pictures = np.stack([cv2.GaussianBlur(i, (0, 0), 1.2) for i in images])
    coarse: Pictures = np.stack([cv2.resize(cv2.resize(i, (48, 48)), (128, 128)) for i in images])
    extractor = lite0_extractor()
    features = tuple(np.asarray(extract(p, extractor), np.float64) for p in (images, blurred, coarse))
    params = [{"low": 100, "high": 200}] * count
    annotator, _ = annotator_of("canny", params)
    assert annotator is not None
    maps = np.stack(
        [np.repeat(annotator.extract(i, p)[..., None], 3, axis=2) for i, p in zip(images, params, strict=True)]
    )
    return (features[0], features[1], features[2]), fidelity(blurred, maps, params, annotator)["f1_2px"]


def main(pool: int = 400, repetitions: int = 1000) -> None:
    """Print the table; set distances take a fifth of the repetitions."""
    pools, scores = real_pool(pool)
    rows = []
    cases = [*mean_cases(scores, repetitions), *set_cases(pools, repetitions // 5), *seed_cases(repetitions)]
    for case in cases:
        share, error, count = coverage(case)
        note = "" if TARGET[0] - 2 * error <= share <= TARGET[1] + 2 * error else "outside"
        rows.append([case.what, case.law, case.n, f"{share:.3f} ± {error:.3f}", str(count), note])
        print("|", " | ".join(rows[-1]), "|", flush=True)
    print(markdown_table(["interval", "law", "n", "covers", "repetitions", ""], rows))


if __name__ == "__main__":
    tyro.cli(main)
