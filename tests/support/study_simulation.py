"""Level, coverage and power of the study's statistics by simulation; as a script it prints the tables of the docs."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd

from user_study.analysis import two_way as tw
from user_study.analysis.modes import PRIOR
from user_study.analysis.screening import exclusions
from user_study.config import Items, Rules
from user_study.design.plan import power
from user_study.design.population import Population, crossing, draw_votes
from user_study.design.trials import Layout, plan_sheet
from user_study.study_folder import Study

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
REPETITIONS = 20_000  # studies a line of the table: a level of .05 is known to +- .003
WORTH = (0.6, 0.0, -0.6)  # of three methods, in logits
TWO = (0.3, -0.3)


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


def draw_rankings(raters: int, items: int, repetitions: int, seed: int, worth: tuple[float, ...] = WORTH) -> np.ndarray:
    """Ranks (B, raters * items, k), k best, of methods of unequal worth with rater and item effects."""
    random, k = np.random.default_rng(seed), len(worth)
    rater, item = np.repeat(np.arange(raters), items), np.tile(np.arange(items), raters)
    value = (
        np.array(worth)
        + random.normal(0, 0.3, (repetitions, raters, k))[:, rater]
        + random.normal(0, 0.5, (repetitions, items, k))[:, item]
        + random.gumbel(size=(repetitions, rater.size, k))
    )
    return np.argsort(np.argsort(value, axis=-1), axis=-1) + 1


def population_rankings(n: int, worth: tuple[float, ...] = WORTH) -> np.ndarray:
    """Ranks (n, k) of n raters on an item each, none of them shared: what a study of any size estimates."""
    return draw_rankings(1, 1, n, 7, worth)[:, 0]


def rank_coverage(repetitions: int, raters: int = 12, items: int = 20) -> float:
    """Coverage of the 95 % intervals of average ranks."""
    truth = population_rankings(2_000_000).mean(axis=0)
    rater, item = np.repeat(np.arange(raters), items), np.tile(np.arange(items), raters)
    ranks = draw_rankings(raters, items, repetitions, 8)
    inside = []
    for method, expected in enumerate(truth):
        mean = tw.two_way_mean(ranks[..., method], rater, item)
        inside.append(np.abs(mean.value - expected) <= tw.mean_half_width(mean))
    return float(np.mean(inside))


def count_orders(ranks: np.ndarray) -> np.ndarray:
    """(..., k) ranks -> (..., k!) 1 at the order that each is, as `permutations` lists them from best to worst."""
    k = ranks.shape[-1]
    code = np.argsort(-ranks, axis=-1) @ k ** np.arange(k)
    return np.stack([code == np.array(o) @ k ** np.arange(k) for o in permutations(range(k))], axis=-1).astype(float)


def fit_rankings(counts: np.ndarray, k: int, alpha: float = 0.0) -> np.ndarray:
    """`choix.ilsr_rankings` of many studies at once: (B, k!) counts of orders -> (B, k) abilities."""
    orders = list(permutations(range(k)))
    params, before = np.zeros((len(counts), k)), np.full((len(counts), k), np.inf)
    while np.abs(params - before).max() > 1e-8:
        strength = np.exp(params)
        strength *= k / strength.sum(axis=1, keepdims=True)  # the scale that alpha is meant for
        chain = np.full((len(counts), k, k), alpha)
        for order, weight in zip(orders, counts.T, strict=True):
            tail = np.full(len(counts), float(k))
            for place, winner in enumerate(order[:-1]):
                chain[:, order[place + 1 :], winner] += (weight / tail)[:, None]
                tail = tail - strength[:, winner]
        chain -= np.eye(k) * chain.sum(axis=2, keepdims=True)
        balance = np.swapaxes(chain, 1, 2)
        balance[:, -1] = 1
        shares = np.linalg.solve(balance, np.broadcast_to(np.eye(k)[-1:].T, (len(counts), k, 1)))[..., 0]
        params, before = np.log(shares) - np.log(shares).mean(axis=1, keepdims=True), params
    return params


def ability_intervals(ranks: np.ndarray, raters: int, items: int) -> np.ndarray:
    """(B, raters * items, k) ranks -> (3, B, k): abilities and both bounds as `modes.abilities` makes them."""
    orders = count_orders(ranks).reshape(len(ranks), raters, items, -1)
    whole = orders.sum(axis=(1, 2))[:, None]
    counts = np.concatenate([whole, whole - orders.sum(axis=2), whole - orders.sum(axis=1)], axis=1)
    fits = fit_rankings(counts.reshape(-1, counts.shape[-1]), ranks.shape[-1], PRIOR)
    fits = fits.reshape(*counts.shape[:2], -1)
    turns = (fits[:, 1 : raters + 1], fits[:, raters + 1 :])
    variance = sum(((t - t.mean(axis=1, keepdims=True)) ** 2).sum(axis=1) * (1 - 1 / t.shape[1]) for t in turns)
    half = 1.96 * np.sqrt(variance)
    return np.stack([fits[:, 0], fits[:, 0] - half, fits[:, 0] + half])


def ability_coverage(repetitions: int, raters: int = 12, items: int = 20, worth: tuple[float, ...] = WORTH) -> float:
    """Coverage of the 95 % intervals of Plackett-Luce abilities; with two methods, of Bradley-Terry's."""
    truth = fit_rankings(count_orders(population_rankings(2_000_000, worth)).sum(axis=0)[None], len(worth))
    ranks = draw_rankings(raters, items, repetitions, 8, worth)
    _, low, high = ability_intervals(ranks, raters, items)
    return float(np.mean((low <= truth) & (truth <= high)))


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


#: choices of the two times that an item is shown; where it says so, the side stays where the sides changed
REPEATS = {
    "paired, both look the same": ("paired", ["left", "right"], [0.5, 0.5]),
    "paired, the same, ties at 15 %": ("paired", ["left", "right", "tie"], [0.425, 0.425, 0.15]),
    "ranking of three, all look the same": (
        "ranking",
        ["0>1>2", "0>2>1", "1>0>2", "1>2>0", "2>0>1", "2>1>0"],
        [1 / 6] * 6,
    ),
    "discrimination, by guessing": ("discrimination", ["first", "second"], [0.5, 0.5]),
    "paired, always left": ("paired", ["left", "right"], [1.0, 0.0]),
    "paired, left at 95 %": ("paired", ["left", "right"], [0.95, 0.05]),
}


def repeats_rule(raters: int, needed: int = Rules.repeats_needed) -> dict[str, float]:
    """Share of raters left out by the rule on repeats, as many repeats as it needs; choices do not see the pictures."""
    random, out = np.random.default_rng(4), {}
    count = raters * needed
    who = {"sheet": "s", "rater": np.repeat(np.arange(raters), needed), "item": np.tile(np.arange(needed), raters)}
    for name, (mode, choices, chances) in REPEATS.items():
        config = {"mode": mode, "repeats_needed": needed, "repeats_rule": "contrary"}
        study = Study(Path("s"), {"study": "s", "config": config}, {}, {}, {}, {}, {})
        draw = lambda kind: pd.DataFrame(  # noqa: E731
            {**who, "kind": kind, "choice": random.choice(choices, count, p=chances), "winner": ""}  # noqa: B023
        )
        out[name] = len(exclusions(pd.concat([draw("pair"), draw("repeat")]), study)) / raters
    return out


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


def main(repetitions: int = REPETITIONS) -> None:
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
    print(f"\nAverage ranks, three methods, 12 x 20 (6,000 studies): coverage {rank_coverage(6000):.3f}")
    print(f"Bradley-Terry abilities of two (5,000): {ability_coverage(5000, worth=TWO):.3f}")
    print(f"Plackett-Luce abilities of three (5,000): {ability_coverage(5000):.3f}")
    print(f"Holm over three pairs of equal methods (6,000): {holm_level(6000):.3f}")
    print(f"Permutation by raters, fixed items (6,000): {permutation_level(6000):.3f}\n")
    for name, share in repeats_rule(50_000).items():
        print(f"rule on repeats, {name}: left out {share:.4f}")
    for catch in (4, 7):
        print(catch, catch_rule(200_000, catch))
    for row in planner(6000):
        print(row)


if __name__ == "__main__":
    main()
