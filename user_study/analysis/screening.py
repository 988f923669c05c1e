"""Who counts: failed catch trials and unsteady repeats, by rules that the study fixed before there were answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from user_study.study_folder import Study

if TYPE_CHECKING:
    import pandas as pd

UNDECIDED = ("tie", "unseen")


def failed_catches(votes: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Catch trials with a column ``failed``: another answer than the one that the trial wants."""
    catches = votes[votes["kind"] == "catch"]
    failed: list[bool] = []
    for row in catches.itertuples():
        expected = study.trials[str(row.sheet)][str(row.trial)].expected
        last = str(row.choice).split(">")[-1]
        failed.append((last if study.mode == "ranking" else str(row.choice)) != expected)
    return catches.assign(failed=failed)


def repeats(votes: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Answers to items shown twice, whose sides were elsewhere the second time (in discrimination it is one picture).

    Columns ``sheet, rater, item``; ``alike``: the same winner; ``contrary``: the same place or order of places chosen
    again, so other pictures, or in discrimination the other kind. Ties and unseen pictures contradict nothing.
    """
    index = ["sheet", "rater", "item"]
    first = _answers(votes, "pair").add_suffix("_first")
    both = _answers(votes, "repeat").join(first, how="inner").reset_index()
    same, decided = both["choice"] == both["choice_first"], ~both["choice"].isin(UNDECIDED)
    if study.mode == "discrimination":
        contrary = ~same & decided & ~both["choice_first"].isin(UNDECIDED)
    else:
        contrary = same & decided
    return both.assign(alike=both["winner"] == both["winner_first"], contrary=contrary)[[*index, "alike", "contrary"]]


def _answers(votes: pd.DataFrame, kind: str) -> pd.DataFrame:
    return votes[votes["kind"] == kind].set_index(["sheet", "rater", "item"])[["choice", "winner"]]


def exclusions(votes: pd.DataFrame, study: Study) -> list[dict[str, Any]]:
    """Filled sheets that the rules leave out, each with its reason."""
    rules, out = study.rules, []
    failed = failed_catches(votes, study).groupby(["sheet", "rater"])["failed"].agg(["sum", "size"])
    for row in failed[failed["sum"] > rules["catch_allowed"]].reset_index().to_dict("records"):
        reason = f"failed {int(row['sum'])} of {int(row['size'])} catch trials ({rules['catch_allowed']} allowed)"
        out.append({"sheet": row["sheet"], "rater": row["rater"], "reason": reason})
    again, needed = repeats(votes, study).groupby(["sheet", "rater"])[["alike", "contrary"]], rules["repeats_needed"]
    totals = again.sum().assign(size=again.size()).reset_index()
    for row in totals.to_dict("records"):
        count = int(row["size"])
        if not needed or count < needed:
            continue
        if rules["repeats_rule"] == "contrary" and row["contrary"] == count:
            reason = f"contradicted the first answer at all {count} repeats"
        elif rules["repeats_rule"] == "alike" and row["alike"] == 0:
            reason = f"none of {count} repeats answered alike"
        else:
            continue
        out.append({"sheet": row["sheet"], "rater": row["rater"], "reason": reason})
    return out
