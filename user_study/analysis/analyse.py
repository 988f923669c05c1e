"""``cnlab-study analyse``: votes -> numbers with intervals, tests, what is known of the raters' care, a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.contract.errors import CnlabError
from user_study.analysis import statistics as st
from user_study.analysis import two_way as tw
from user_study.analysis.modes import discrimination, paired, ranking
from user_study.analysis.report import report_page, report_text
from user_study.analysis.screening import exclusions, failed_catches, repeats
from user_study.study_folder import Study, part_of, read_study, read_votes, write_outcome

if TYPE_CHECKING:
    import pandas as pd


def analyse_study(folder: Path, simulated: bool = False, results: Path = Path("results")) -> str:
    """Write analysis.json and report.html beside the votes and return the report as text."""
    study = read_study(folder)
    part = part_of(folder, simulated)
    votes = read_votes(part)
    if "group" not in votes.columns:
        raise CnlabError(f"{part} has votes of an earlier version; import the answers again, they are in answers/")
    result = analyse(votes, study, results)
    write_outcome(part, result, report_page(result, votes))
    return report_text(result)


def analyse(votes: pd.DataFrame, study: Study, results: Path | None = None) -> dict[str, Any]:
    """All figures of a study: ``numbers`` with intervals, ``tests``, and facts on the raters."""
    excluded = exclusions(votes, study)
    out = {(row["sheet"], row["rater"]) for row in excluded}
    used = votes[[pair not in out for pair in zip(votes["sheet"], votes["rater"], strict=True)]]
    catches, again = failed_catches(votes, study), repeats(used, study)
    pairs = used[used["kind"] == "pair"]
    judged = pairs[pairs["choice"] != "unseen"]
    by_mode = {"paired": paired, "ranking": ranking, "discrimination": discrimination}[study.mode]
    unit = judged["item"] + judged["shown"] if study.mode == "discrimination" else judged["item"]  # the picture judged
    left = judged[judged["choice"].isin(["left", "right"])]["choice"] == "left"
    result: dict[str, Any] = {
        "study": study.id,
        "mode": study.mode,
        "criterion": study.config.get("criterion", "fidelity"),
        "question": study.config.get("question", ""),
        "subjects": study.subjects,
        "foreign": study.foreign,
        "simulated": bool(votes["simulated"].any()),
        "rules": study.rules,
        "margin": study.rules["margin"],
        "level": tw.LEVEL,
        "excluded": excluded,
        "sheets_used": int(used.groupby(["sheet", "rater"]).ngroups) if len(used) else 0,
        "unseen": int((pairs["choice"] == "unseen").sum()),
        "catch": {"trials": len(catches), "failed": int(catches["failed"].sum()) if len(catches) else 0},
        "repeats": exact_rate(int(again["alike"].sum()), len(again)),
        "left_share": None if study.foreign else exact_rate(int(left.sum()), len(left)),
        "agreement_alpha": st.krippendorff_alpha(unit, judged["rater"], judged["winner"]) if len(judged) else None,
        "median_response_ms": float(pairs["response_ms"].median()) if len(pairs) else None,
        **by_mode(judged, study.subjects, study.rules["margin"]),
    }
    result["metrics"] = _metrics(judged, study, results)
    return result


def exact_rate(count: int, n: int) -> dict[str, Any] | None:
    """A share with its exact interval, as if the n answers were independent; None of nothing."""
    if n == 0:
        return None
    low, high = st.clopper_pearson(count, n)
    return {"value": count / n, "ci_low": low, "ci_high": high, "n": n}


def _metrics(judged: pd.DataFrame, study: Study, results: Path | None) -> list[dict[str, Any]]:
    from user_study.analysis.metric_votes import agreement

    return [] if results is None or study.mode != "paired" else agreement(judged, results, study)
