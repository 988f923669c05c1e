"""Who counts: failed catch trials and unsteady repeats, by rules that the study fixed before there were answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from user_study.study_folder import Study

if TYPE_CHECKING:
    import pandas as pd


def failed_catches(votes: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Catch trials with a column ``failed``: another answer than the one that the trial wants."""
    catches = votes[votes["kind"] == "catch"]
    failed: list[bool] = []
    for row in catches.itertuples():
        expected = study.trials[str(row.sheet)][str(row.trial)].expected
        last = str(row.choice).split(">")[-1]
        failed.append((last if study.mode == "ranking" else str(row.choice)) != expected)
    return catches.assign(failed=failed)


def repeats(votes: pd.DataFrame) -> pd.DataFrame:
    """``sheet, rater, item, alike``: whether a repeat has the winner of the original, whose sides were elsewhere."""
    index = ["sheet", "rater", "item"]
    first = votes[votes["kind"] == "pair"].set_index(index)["winner"].rename("first")
    again = votes[votes["kind"] == "repeat"].set_index(index)["winner"].rename("again")
    both = again.to_frame().join(first, how="inner").reset_index()
    return both.assign(alike=both["again"] == both["first"])[[*index, "alike"]]


def exclusions(votes: pd.DataFrame, study: Study) -> list[dict[str, Any]]:
    """Filled sheets that the rules leave out, each with its reason."""
    rules, out = study.rules, []
    failed = failed_catches(votes, study).groupby(["sheet", "rater"])["failed"].agg(["sum", "size"])
    for row in failed[failed["sum"] > rules["catch_allowed"]].reset_index().to_dict("records"):
        reason = f"failed {int(row['sum'])} of {int(row['size'])} catch trials ({rules['catch_allowed']} allowed)"
        out.append({"sheet": row["sheet"], "rater": row["rater"], "reason": reason})
    alike = repeats(votes).groupby(["sheet", "rater"])["alike"].agg(["sum", "size"])
    needed = rules["repeats_needed"]
    for row in alike.reset_index().to_dict("records"):
        if needed and row["size"] >= needed and row["sum"] == 0:
            reason = f"none of {int(row['size'])} repeats answered alike"
            out.append({"sheet": row["sheet"], "rater": row["rater"], "reason": reason})
    return out
