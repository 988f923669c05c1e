"""Paired contrasts over training seeds, a family of them at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from evaluation.experiments.base import Finding, Grid
from evaluation.experiments.words import number, p_value
from evaluation.metrics.intervals import Difference, holm, seed_difference

Contrasts = dict[str, Difference]


def against(wide: pd.DataFrame, baseline: Any) -> Contrasts:
    """Each column less the baseline's, over the seeds that have both."""
    contrasts = {}
    for name in wide.columns:
        pairs = wide[[name, baseline]].dropna() if name != baseline else wide.iloc[:0]
        if len(pairs):
            contrasts[str(name)] = seed_difference(pairs[name], pairs[baseline])
    return contrasts


def adjusted(contrasts: Mapping[str, Difference]) -> dict[str, float]:
    """p-values after Holm, of those that have one."""
    return holm({name: d.p for name, d in contrasts.items() if d.p is not None})


def verdict(difference: Difference, p: float | None) -> str:
    """In a word; ``p`` after Holm."""
    if p is None:
        return "one seed: cannot be told from noise"
    return "not told apart" if p >= 0.05 else "better" if difference.value > 0 else "worse"


def contrast_grid(title: str, contrasts: Mapping[str, Difference]) -> Grid:
    """A row a contrast: difference, p after Holm, verdict."""
    p = adjusted(contrasts)
    rows = [[k, number(d), str(d.n), p_value(p.get(k)), verdict(d, p.get(k))] for k, d in contrasts.items()]
    return Grid(title, ("contrast", "difference, paired by seed", "seeds", "Holm", "verdict"), rows)


def contrast_findings(name: str, contrasts: Mapping[str, Difference], what: str) -> list[Finding]:
    """A sentence for the whole family: which are better, which worse, which not told apart."""
    if not contrasts:
        return [Finding(name, f"No seed has both sides of {what} yet.")]
    p = adjusted(contrasts)
    words: dict[str, list[str]] = {}
    for label, difference in contrasts.items():
        words.setdefault(verdict(difference, p.get(label)), []).append(f"{label} ({number(difference)})")
    sentence = f"{what}: " + "; ".join(f"{verdict}: {', '.join(labels)}" for verdict, labels in words.items()) + "."
    values = {
        f"{label}_{part}": v for label, d in contrasts.items() for part, v in (("value", d.value), ("p", p.get(label)))
    }
    return [Finding(name, sentence, values)]
