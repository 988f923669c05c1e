"""The figures of each mode: win rate, average ranks with abilities, accuracy with d'."""

from __future__ import annotations

import json
from itertools import combinations
from math import ceil
from typing import TYPE_CHECKING, Any

import choix
import numpy as np

from user_study.analysis import statistics as st
from user_study.analysis import two_way as tw

if TYPE_CHECKING:
    import pandas as pd

Number = dict[str, Any]
NEEDED_LIMIT = 1000.0  # a study more than so many times as large is not worth naming
PRIOR = 0.1  # pseudo-counts of the strength model, so that a method that always wins has a finite ability


def rate(name: str, subject: str, values: Any, votes: pd.DataFrame, against: str | None = None) -> Number:
    """A share with its two-way interval; the bounds are None below two raters or items."""
    if len(votes) == 0:
        return {"name": name, "subject": subject, "against": against, "value": None, "ci_low": None, "ci_high": None,
                "n": 0}  # fmt: skip
    mean = tw.two_way_mean(values, votes["rater"], votes["item"])
    low, high = tw.rate_interval(mean)
    bounds = {"value": tw.scalar(mean.value), "ci_low": tw.scalar(low), "ci_high": tw.scalar(high), "n": len(votes)}
    return {"name": name, "subject": subject, "against": against, **bounds}


def tests(values: Any, votes: pd.DataFrame, margin: float) -> dict[str, Any]:
    """Difference from 1/2, equivalence within the margin, minimal detectable effect, and the narrower tests."""
    if len(votes) == 0:
        return {}
    mean = tw.two_way_mean(values, votes["rater"], votes["item"])
    wins, n = int(np.sum(values)), len(votes)
    low, high = st.clopper_pearson(wins, n)
    return {
        "difference_p": float(tw.difference_test(mean)),
        "equivalence_p": float(tw.equivalence_test(mean, margin)),
        "minimal_detectable_effect": tw.scalar(tw.minimal_detectable_effect(mean)),
        "effective_n": _effective(mean),
        "needed_for_difference": _needed(mean, tw.needed_growth(mean, float(mean.value))),
        "needed_for_equality": _needed(mean, tw.needed_growth(mean, 0.5, equal_within=margin)),
        "permutation_by_raters_p": tw.rater_permutation_test(values, votes["rater"]),
        "if_votes_were_independent": {"sign_test_p": st.sign_test(wins, n), "ci_low": low, "ci_high": high},
    }


def _effective(mean: tw.Mean) -> float | None:
    spread = float(mean.value * (1 - mean.value))
    return spread / float(mean.variance) if float(mean.variance) > 0 else None


def _needed(mean: tw.Mean, growth: float | None) -> dict[str, int] | None:
    """Raters and items of a study so many times as large as this one."""
    if growth is None or growth > NEEDED_LIMIT:
        return None
    return {"raters": ceil(growth * float(mean.raters)), "items": ceil(growth * float(mean.items))}


def paired(votes: pd.DataFrame, subjects: list[str], margin: float) -> dict[str, Any]:
    """Win rate of the first subject over decided votes, ties beside it and as half a win."""
    a, b = subjects[:2]
    decided = votes[votes["winner"].isin([a, b])]
    won = (decided["winner"] == a).to_numpy(dtype=float)
    tie = (votes["winner"] == "tie").to_numpy(dtype=float)
    half = np.where(tie == 1, 0.5, (votes["winner"] == a).to_numpy(dtype=float))
    return {
        "numbers": [
            rate("win_rate", a, won, decided, b),
            rate("tie_rate", a, tie, votes, b),
            rate("win_rate_ties_half", a, half, votes, b),
        ],
        "tests": tests(won, decided, margin),
        "per_rater": _each(decided, won, "rater"),
        "per_item": _each(decided, won, "item"),
    }


def _each(votes: pd.DataFrame, values: Any, by: str) -> list[Number]:
    rows = votes.assign(value=values).groupby(by)["value"].agg(["mean", "size"]).reset_index()
    return [{by: str(r[by]), "value": float(r["mean"]), "n": int(r["size"])} for r in rows.to_dict("records")]


def _each_subject(votes: pd.DataFrame, ranks: Any, subjects: list[str], by: str) -> list[Number]:
    return [{**entry, "subject": s} for n, s in enumerate(subjects) for entry in _each(votes, ranks[:, n], by)]


def ranking(votes: pd.DataFrame, subjects: list[str], margin: float) -> dict[str, Any]:
    """Average user ranking (1 worst to k best), pairwise win rates with Holm's correction, Plackett-Luce abilities."""
    ranks, orders = _ranks(votes, subjects)
    numbers, pairwise = [], []
    for n, subject in enumerate(subjects):
        if not len(votes):
            break
        mean = tw.two_way_mean(ranks[:, n], votes["rater"], votes["item"])
        value, half = float(mean.value), tw.scalar(tw.mean_half_width(mean))
        low, high = (None, None) if half is None else (max(1.0, value - half), min(float(len(subjects)), value + half))
        per_rater = [float(part.mean()) for part in _by(ranks[:, n], votes["rater"])]
        numbers.append({"name": "average_rank", "subject": subject, "against": None, "value": value, "ci_low": low,
                        "ci_high": high, "n": len(votes), "sd_over_raters": float(np.std(per_rater, ddof=1))
                        if len(per_rater) > 1 else None})  # fmt: skip
    for a, b in combinations(range(len(subjects)), 2):
        won = (ranks[:, a] > ranks[:, b]).astype(float)
        number = rate("win_rate", subjects[a], won, votes, subjects[b])
        pairwise.append({**number, **tests(won, votes, margin)})
    for entry, p in zip(pairwise, tw.holm([e.get("difference_p", 1.0) for e in pairwise]), strict=True):
        entry["holm_p"] = p
    units = np.concatenate([[f"{item}/{subject}" for item in votes["item"]] for subject in subjects])
    coders, long = np.tile(votes["rater"].to_numpy(dtype=str), len(subjects)), ranks.T.ravel()
    return {
        "numbers": numbers + pairwise,
        "tests": {},
        "per_rater": _each_subject(votes, ranks, subjects, "rater"),
        "per_item": _each_subject(votes, ranks, subjects, "item"),
        "abilities": abilities(orders, votes, subjects),
        "agreement_alpha": st.krippendorff_alpha(units, coders, long, "ordinal") if len(votes) else None,
    }


def _by(values: Any, labels: Any) -> list[Any]:
    groups = np.unique(np.asarray(labels), return_inverse=True)[1]
    return [values[groups == g] for g in range(groups.max(initial=-1) + 1)]


def _ranks(votes: pd.DataFrame, subjects: list[str]) -> tuple[Any, list[tuple[int, ...]]]:
    """(n, k) rank of each subject, k best; and each vote's subjects from best to worst."""
    orders = []
    for shown, choice in zip(votes["shown"], votes["choice"], strict=True):
        names = json.loads(shown)
        orders.append(tuple(subjects.index(names[int(place)]) for place in choice.split(">")))
    ranks = np.zeros((len(orders), len(subjects)))
    for row, order in enumerate(orders):
        ranks[row, list(order)] = np.arange(len(subjects), 0, -1)
    return ranks, orders


def abilities(orders: list[tuple[int, ...]], votes: pd.DataFrame, subjects: list[str]) -> list[Number]:
    """Plackett-Luce abilities (logits, mean 0); interval from deleting raters and items in turn, variances added.

    References
    ----------
    Maystre and Grossglauser (2015) for the estimator (choix.ilsr_rankings); Bradley-Terry is its case of two.
    """
    if not orders:
        return []
    fit = lambda chosen: choix.ilsr_rankings(len(subjects), chosen, alpha=PRIOR)  # noqa: E731
    whole, variance = fit(orders), np.zeros(len(subjects))
    for labels in (votes["rater"].to_numpy(), votes["item"].to_numpy()):
        names = np.unique(labels)
        if len(names) < 2:
            return [{"subject": s, "value": float(v), "ci_low": None, "ci_high": None}
                    for s, v in zip(subjects, whole, strict=True)]  # fmt: skip
        turns = np.array([fit([o for o, label in zip(orders, labels, strict=True) if label != n]) for n in names])
        variance += ((turns - turns.mean(axis=0)) ** 2).sum(axis=0) * (len(names) - 1) / len(names)
    half = 1.96 * np.sqrt(variance)
    return [{"subject": s, "value": float(v), "ci_low": float(v - h), "ci_high": float(v + h)}
            for s, v, h in zip(subjects, whole, half, strict=True)]  # fmt: skip


def discrimination(votes: pd.DataFrame, subjects: list[str], margin: float) -> dict[str, Any]:
    """Accuracy over raters and pictures, d' and criterion, and by how much raters differ beyond chance."""
    shown = votes["shown"].map(lambda text: json.loads(text)[0])
    right = (shown == votes["winner"]).to_numpy(dtype=float)
    a, b = subjects[:2]
    second = votes["winner"] == b  # a "signal" is a picture of the second kind
    signals, noise = (shown == b), (shown == a)
    per = votes.assign(right=right).groupby("rater")["right"].agg(["sum", "size"])
    spread = st.overdispersion(per["sum"], per["size"]) if len(per) else None
    d, c = st.d_prime(int((second & signals).sum()), int(signals.sum()), int((second & noise).sum()), int(noise.sum()))
    return {
        "numbers": [rate("accuracy", a, right, votes, b)],
        "tests": tests(right, votes, margin),
        "d_prime": d,
        "criterion_c": c,
        "overdispersion": None if spread is None else vars(spread),
        "per_rater": _each(votes, right, "rater"),
        "per_item": _each(votes, right, "item"),
    }
