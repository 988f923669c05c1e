"""Metric against votes: how often each metric of the evaluation prefers the picture that people prefer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.scores import FLOOR, read_scores
from pipeline.fidelity import LOWER_IS_BETTER
from user_study.analysis.modes import rate

if TYPE_CHECKING:
    import pandas as pd

    from user_study.study_folder import Study

OUTSIDE = ("real", "folder:")  # subjects that nothing generated: a study names them by other fingerprints
ENDS = tuple(f"_{name}" for name in LOWER_IS_BETTER)  # of metrics whose lower value is the better one


def agreement(votes: pd.DataFrame, results: Path, study: Study) -> list[dict[str, Any]]:
    """One entry a metric: share of decided votes whose winner has the better score, clustered by raters and items.

    The metrics that agree most come first. Only scores of the pictures that the sheets show count. Votes on pictures
    with equal scores are left out, as are floors, which judge a picture by another sample's map.
    """
    scores = _scores(results, study)
    if scores.empty:
        return []
    decided = votes[~votes["winner"].isin(["tie", "unseen"])].copy()
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
        sign = -1.0 if str(metric).split(" (")[0].endswith(ENDS) else 1.0
        agree = (sign * (better - worse) > 0)[usable].astype(float)
        entries.append(rate("agreement", str(metric), agree, decided[usable]))
    return sorted(entries, key=lambda entry: (-entry["value"], entry["subject"]))


def _scores(results: Path, study: Study) -> pd.DataFrame:
    """Scores of the study's own pictures; where a metric has several versions, its name says which."""
    scores = read_scores(results)
    if scores.empty or "run" not in scores.columns:
        return scores.iloc[:0]
    scores = scores[~scores["metric"].str.endswith(FLOOR)].copy()
    if "pictures" in scores.columns:
        known = dict(zip(study.subjects, study.config.get("fingerprints", []), strict=False))
        shown = [
            known.get(run) in (None, pictures) or run.startswith(OUTSIDE)
            for run, pictures in zip(scores["run"], scores["pictures"], strict=True)
        ]
        scores = scores[shown]
    if "metric_version" in scores.columns:
        several = scores.groupby("metric")["metric_version"].transform("nunique") > 1
        scores["metric"] = scores["metric"].where(~several, scores["metric"] + " (" + scores["metric_version"] + ")")
    return scores
