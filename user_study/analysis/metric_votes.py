"""Metric against votes: how often each metric of the evaluation prefers the picture that people prefer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.scores import read_scores
from pipeline.fidelity import LOWER_IS_BETTER
from user_study.analysis.modes import rate

if TYPE_CHECKING:
    import pandas as pd


ENDS = tuple(f"_{name}" for name in LOWER_IS_BETTER)  # of metrics whose lower value is the better one


def agreement(seen: pd.DataFrame, results: Path) -> list[dict[str, Any]]:
    """One entry a metric: share of decided votes whose winner has the better score, clustered by raters and items.

    Votes on pictures with equal scores are left out.
    """
    scores = read_scores(results)
    if scores.empty or "run" not in scores.columns:
        return []
    decided = seen[~seen["winner"].isin(["tie", "unseen"])].copy()
    decided["loser"] = [
        next((name for name in json.loads(shown) if name != winner), "")
        for shown, winner in zip(decided["shown"], decided["winner"], strict=True)
    ]
    entries = []
    for metric, part in scores.groupby("metric"):
        value = part.groupby(["run", "key", "gen_seed"])["value"].mean().to_dict()
        places = list(zip(decided["key"], decided["group"], strict=True))
        better = np.array(
            [value.get((name, *place), np.nan) for name, place in zip(decided["winner"], places, strict=True)]
        )
        worse = np.array(
            [value.get((name, *place), np.nan) for name, place in zip(decided["loser"], places, strict=True)]
        )
        usable = np.isfinite(better) & np.isfinite(worse) & (better != worse)
        if not usable.any():
            continue
        sign = -1.0 if str(metric).endswith(ENDS) else 1.0
        agree = (sign * (better - worse) > 0)[usable].astype(float)
        entries.append(rate("agreement", str(metric), agree, decided[usable]))
    return entries
