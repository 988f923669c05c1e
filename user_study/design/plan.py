"""``cnlab-study plan``: how many raters and items a wanted effect needs, by simulating the analysis itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.contract.errors import CnlabError
from pipeline.contract.text import markdown_table
from user_study.analysis.two_way import difference_test, equivalence_test, two_way_mean
from user_study.config import Plan
from user_study.design.population import Population, crossing, draw_votes, fit_population
from user_study.study_folder import read_votes

ALPHA = 0.05


def power(population: Population, raters: int, per_rater: int, pool: int, repetitions: int, seed: int = 0) -> float:
    """Share of simulated studies whose two-way test finds the sides different at the 5 % level."""
    who = crossing(raters, per_rater, pool)
    significant = 0
    for votes, used in draw_votes(population, who, repetitions, seed):
        significant += int((difference_test(two_way_mean(votes, who.rater, who.item, used)) <= ALPHA).sum())
    return significant / repetitions


def equivalence_power(
    population: Population, raters: int, per_rater: int, pool: int, margin: float, repetitions: int, seed: int = 0
) -> float:
    """Share of simulated studies that show the sides to be equal within the margin."""
    who = crossing(raters, per_rater, pool)
    significant = 0
    for votes, used in draw_votes(population, who, repetitions, seed):
        mean = two_way_mean(votes, who.rater, who.item, used)
        significant += int((equivalence_test(mean, margin) <= ALPHA).sum())
    return significant / repetitions


def plan_study(config: Plan) -> str:
    """A table of power by raters and pool of items, and the smallest design that reaches the wanted power."""
    population = _population(config)
    rows, enough = [], []
    for raters in config.raters:
        cells = [str(raters)]
        for pool in config.pools:
            per_rater = min(config.per_rater, pool)
            if config.margin:
                equal = replace(population, rate=0.5)
                share = equivalence_power(
                    equal, raters, per_rater, pool, config.margin, config.repetitions, config.seed
                )
            else:
                share = power(population, raters, per_rater, pool, config.repetitions, config.seed)
            cells.append(f"{share:.2f}")
            if share >= config.power:
                enough.append((raters, pool))
        rows.append(cells)
    error = 1.96 * float(np.sqrt(0.25 / config.repetitions))
    goal = f"equivalence within 0.5 +- {config.margin:g}" if config.margin else f"a win rate of {population.rate:g}"
    lines = [
        f"Power for {goal} at the 5 % level, {config.per_rater} pairs a rater, rater sd {population.rater_sd:.2f}, "
        f"item sd {population.item_sd:.2f} (logits), ties {population.ties:.0%}; each within {error:.2f}:",
        "",
        markdown_table(["raters", *(f"{pool} items" for pool in config.pools)], rows),
        "",
        f"Least raters with {config.power:.0%}: {enough[0][0]}, on {enough[0][1]} items"
        if enough
        else f"None of these reaches {config.power:.0%}; give more --raters or --pools.",
    ]
    return "\n".join(lines)


def _population(config: Plan) -> Population:
    if config.pilot is None:
        return Population(config.effect, config.rater_sd, config.item_sd, config.ties)
    votes = read_votes(config.pilot)
    pairs = votes[(votes["kind"] == "pair") & (votes["choice"] != "unseen")]
    decided = pairs[pairs["winner"] != "tie"]
    if decided["rater"].nunique() < 2 or decided["item"].nunique() < 2:
        raise CnlabError(f"{config.pilot} has decided votes of fewer than two raters or items; give --rater-sd instead")
    wins = (decided["winner"] == sorted(decided["winner"].unique())[0]).to_numpy(dtype=float)
    fitted = fit_population(wins, decided["rater"], decided["item"], 1 - len(decided) / len(pairs))
    return replace(fitted, rate=config.effect)
