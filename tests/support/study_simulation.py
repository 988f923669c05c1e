"""Level, coverage and power of the study's statistics by simulation; as a script it prints the tables of the docs."""

from __future__ import annotations

import choix
import numpy as np
import pandas as pd

from user_study.analysis import two_way as tw
from user_study.analysis.modes import PRIOR, abilities
from user_study.config import Items
from user_study.design.plan import power
from user_study.design.population import Population, crossing, draw_votes
from user_study.design.trials import Layout, plan_sheet

#: name: raters, items a rater, pool
DESIGNS = {
    "12 x 20": (12, 20, 20),
    "25 x 100": (25, 100, 100),
    "12 x 200": (12, 200, 200),
    "24 x 40 of 120": (24, 40, 120),
    "12 x 40 of 120": (12, 40, 120),
}
SPREADS = ((0.3, 0.8), (0.6, 0.8), (0.7, 0.5))
MARGIN = 0.1


def levels(
    design: str, rater_sd: float, item_sd: float, repetitions: int, ties: float = 0.0, seed: int = 11
) -> dict[str, float]:
    """Coverage at rates of .5 and .7, type-I error of the test, of TOST at its margin."""
    raters, per_rater, pool = DESIGNS[design]
    who = crossing(raters, per_rater, pool)
    out: dict[str, list[float]] = {name: [] for name in ("cover .5", "cover .7", "type I", "TOST")}
    for rate in (0.5, 0.7, 0.5 + MARGIN):
        for votes, used in draw_votes(Population(rate, rater_sd, item_sd, ties), who, repetitions, seed):
            mean = tw.two_way_mean(votes, who.rater, who.item, used)
            low, high = tw.rate_interval(mean)
            inside = ((low <= rate) & (rate <= high)).tolist()
            if rate == 0.5:
                out["cover .5"] += inside
                out["type I"] += (tw.difference_test(mean) <= 0.05).tolist()
            elif rate == 0.7:
                out["cover .7"] += inside
            else:
                out["TOST"] += (tw.equivalence_test(mean, MARGIN) <= 0.05).tolist()
    return {name: float(np.mean(values)) for name, values in out.items()}


def permutation_level(repetitions: int, raters: int = 12, items: int = 20) -> float:
    """Type-I error of the permutation by raters on a fixed set of items whose mean rate is 1/2."""
    random = np.random.default_rng(5)
    effect = random.normal(0, 0.8, items // 2)
    effect = np.concatenate([effect, -effect])
    signs = 1 - 2 * ((np.arange(2**raters)[:, None] >> np.arange(raters)) & 1)
    rejected = 0
    for _ in range(repetitions):
        logit = random.normal(0, 0.6, raters)[:, None] + effect
        sums = ((random.random(logit.shape) < 1 / (1 + np.exp(-logit))) - 0.5).sum(axis=1)
        rejected += np.mean(np.abs(signs @ sums) >= abs(sums.sum()) - 1e-9) <= 0.05
    return rejected / repetitions


def holm_level(repetitions: int) -> float:
    """Chance of any false finding among the three pairs of three equal methods, after Holm."""
    random, raters, items = np.random.default_rng(6), 12, 20
    rater, item = np.repeat(np.arange(raters), items), np.tile(np.arange(items), raters)
    worth = (
        random.normal(0, 0.5, (repetitions, raters, 3))[:, rater]
        + random.normal(0, 0.8, (repetitions, items, 3))[:, item]
        + random.gumbel(size=(repetitions, rater.size, 3))
    )
    pairs = [(0, 1), (0, 2), (1, 2)]
    p = np.array([tw.difference_test(tw.two_way_mean(worth[..., a] > worth[..., b], rater, item)) for a, b in pairs])
    return float(np.mean([min(tw.holm(column)) <= 0.05 for column in p.T]))


def draw_rankings(raters: int, items: int, repetitions: int, seed: int) -> np.ndarray:
    """Ranks (B, raters * items, 3), 3 best, of three methods of unequal worth with rater and item effects."""
    random = np.random.default_rng(seed)
    rater, item = np.repeat(np.arange(raters), items), np.tile(np.arange(items), raters)
    worth = (
        np.array([0.6, 0.0, -0.6])
        + random.normal(0, 0.3, (repetitions, raters, 3))[:, rater]
        + random.normal(0, 0.5, (repetitions, items, 3))[:, item]
        + random.gumbel(size=(repetitions, rater.size, 3))
    )
    return np.argsort(np.argsort(worth, axis=-1), axis=-1) + 1


def rank_coverage(repetitions: int, raters: int = 12, items: int = 20) -> float:
    """Coverage of the 95 % intervals of average ranks."""
    truth = draw_rankings(1500, 1500, 1, 7)[0].mean(axis=0)
    rater, item = np.repeat(np.arange(raters), items), np.tile(np.arange(items), raters)
    ranks = draw_rankings(raters, items, repetitions, 8)
    inside = []
    for method, expected in enumerate(truth):
        mean = tw.two_way_mean(ranks[..., method], rater, item)
        inside.append(np.abs(mean.value - expected) <= tw.mean_half_width(mean))
    return float(np.mean(inside))


def ability_coverage(repetitions: int, raters: int = 12, items: int = 20) -> float:
    """Coverage of the 95 % intervals of Plackett-Luce abilities; each study takes a good second."""
    names = ["x", "y", "z"]
    votes = pd.DataFrame({"rater": np.repeat(np.arange(raters), items), "item": np.tile(np.arange(items), raters)})
    order = lambda ranks: [tuple(map(int, row)) for row in np.argsort(-ranks, axis=-1)]  # noqa: E731
    truth = choix.ilsr_rankings(3, order(draw_rankings(250, 250, 1, 7)[0]), alpha=PRIOR)
    inside = []
    for ranks in draw_rankings(raters, items, repetitions, 8):
        for entry, expected in zip(abilities(order(ranks), votes, names), truth, strict=True):
            inside.append(entry["ci_low"] <= expected <= entry["ci_high"])
    return float(np.mean(inside))


def catch_rule(repetitions: int, catch: int = Items.catch, allowed: int = 1) -> dict[str, float]:
    """Share of raters that the rule leaves in: at random by several habits, and careful ones who slip."""
    random = np.random.default_rng(3)
    items = [f"i{n}" for n in range(40)]
    trials = [t for t in plan_sheet(items, [], 0, Layout("paired", 2, 0.1, catch), "salt") if t.kind == "catch"]
    expected = np.array([t.expected for t in trials])
    habits = {
        "left or right": (0.5, 0.5, 0, 0),
        "left, right or tie": (1 / 3, 1 / 3, 1 / 3, 0),
        "any of four": (0.25, 0.25, 0.25, 0.25),
        "ties at 20 %": (0.4, 0.4, 0.2, 0),
        "always left": (1, 0, 0, 0),
        "always tie": (0, 0, 1, 0),
    }
    kept = {}
    for name, chances in habits.items():
        choices = random.choice(["left", "right", "tie", "unseen"], (repetitions, len(expected)), p=chances)
        kept[name] = float(np.mean((choices != expected).sum(axis=1) <= allowed))
    for slip in (0.01, 0.02):
        slips = random.random((repetitions, len(expected))) < slip
        kept[f"careful, slips {slip:.0%}"] = float(np.mean(slips.sum(axis=1) <= allowed))
    return kept


def planner(repetitions: int) -> list[tuple[str, float, float]]:
    """Power as the planner says it (2,000 studies) and as found by another model with the same spreads."""
    rows = []
    for name, effect in (("12 x 20", 0.65), ("24 x 40 of 120", 0.6), ("12 x 200", 0.65)):
        population = Population(effect, 0.4, 0.8, 0.15)
        planned = power(population, *DESIGNS[name], 2000)
        rows.append((name, planned, _probit_power(population, name, repetitions)))
    return rows


def _probit_power(population: Population, design: str, repetitions: int) -> float:
    """Ties from small differences, uniform rater effects and a probit link: not the planner's model."""
    raters, per_rater, pool = DESIGNS[design]
    who, random = crossing(raters, per_rater, pool), np.random.default_rng(9)
    scale, noise = 1.7, 1.0
    found = 0
    for start in range(0, repetitions, 250):
        size = min(250, repetitions - start)
        rater = random.uniform(-1, 1, (size, raters)) * population.rater_sd * np.sqrt(3) / scale
        item = random.normal(0, population.item_sd / scale, (size, pool))
        score = (
            population.mu / scale
            + rater[:, who.rater]
            + item[:, who.item]
            + random.normal(0, noise, (size, who.rater.size))
        )
        used = random.random(score.shape) >= population.ties
        mean = tw.two_way_mean((score > 0).astype(float), who.rater, who.item, used)
        found += int((tw.difference_test(mean) <= 0.05).sum())
    return found / repetitions


def main(repetitions: int = 6000) -> None:
    """Print the tables of docs/study-statistics.md."""
    print(
        "| raters x items | rater sd | item sd | ties | coverage at .5 | coverage at .7 | type I | TOST at its margin |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for design in DESIGNS:
        for rater_sd, item_sd in SPREADS:
            for ties in (0.0, 0.2):
                found = levels(design, rater_sd, item_sd, repetitions, ties)
                cells = " | ".join(f"{value:.3f}" for value in found.values())
                print(f"| {design} | {rater_sd} | {item_sd} | {ties:.0%} | {cells} |", flush=True)
    again = levels("25 x 100", 0.3, 0.8, 5 * repetitions, 0.2, seed=21)
    print(f"\n25 x 100, .3, .8, 20 % with {5 * repetitions} other studies: TOST {again['TOST']:.3f}")
    print(f"Average ranks, three methods, 12 x 20: coverage {rank_coverage(repetitions):.3f}")
    print(f"Plackett-Luce abilities likewise ({repetitions // 10} studies): {ability_coverage(repetitions // 10):.3f}")
    print(f"Holm over three pairs of equal methods: {holm_level(repetitions):.3f}")
    print(f"Permutation by raters, fixed items: {permutation_level(5000):.3f}\n")
    for catch in (4, 7):
        print(catch, catch_rule(200_000, catch))
    for row in planner(6000):
        print(row)


if __name__ == "__main__":
    main()
