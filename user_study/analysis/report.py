"""``cnlab-study analyse``: votes -> win rate, tests, intervals, and what is known of the raters' care."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.contract.errors import CnlabError
from pipeline.contract.files import write_json
from user_study.analysis import statistics as st
from user_study.votes.answers import load_study

if TYPE_CHECKING:
    import pandas as pd

TIES = (
    "Ties and 'can't see' are left out of the win rate and of the sign test; the tie rate is reported beside them, and "
    "win_rate_ties_half counts a tie as half a win."
)
Number = dict[str, Any]


def analyse_study(folder: Path) -> str:
    """Write analysis.json beside the votes and return the report as text; raises CnlabError without votes."""
    import pandas as pd

    study = load_study(folder)
    path = folder / "votes.parquet"
    if not path.exists():
        raise CnlabError(f"{path} does not exist; import answers first")
    try:
        votes = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise CnlabError(f"{path} cannot be read ({error}); delete it and import the answers again") from error
    result = analyse(votes, study.names, study.config["catch_allowed"], study.config["margin"])
    write_json(folder / "analysis.json", {"study": study.id, **result})
    return report(result)


def analyse(votes: pd.DataFrame, names: dict[str, str], catch_allowed: int, margin: float) -> dict[str, Any]:
    """All figures of a study.

    Args:
        votes: columns as in docs/formats.md; ``left`` and ``right`` of a scrambled picture end in "(scrambled)".
        names: run names of sides ``a`` and ``b``; rates are those of ``a``.
        catch_allowed: a filled sheet with more failed catch trials is excluded.
        margin: equivalence margin around 0.5.

    Returns:
        Rates as ``{value, ci_low, ci_high, n}`` in [0, 1] with the exact 95 % interval, None without votes.
    """
    catches = _catches(votes)
    failed = catches.groupby(["sheet", "rater"])["failed"].sum()
    out = failed[failed > catch_allowed]
    excluded = [{**row, "failed": int(row["failed"])} for row in out.reset_index().to_dict("records")]
    keep = ~votes.set_index(["sheet", "rater"]).index.isin(out.index)
    used = votes[keep]
    pairs = used[used["kind"] == "pair"]
    seen = pairs[pairs["choice"] != "unseen"]
    decided = pairs[pairs["winner"].isin(list(names.values()))]
    won = (decided["winner"] == names["a"]).to_numpy()
    wins, n = int(won.sum()), len(won)
    ties = int((pairs["choice"] == "tie").sum())
    return {
        "a": names["a"],
        "b": names["b"],
        "win_rate": _rate(wins, n),
        "win_rate_two_way": _two_way(won, decided),
        "win_rate_ties_half": (wins + ties / 2) / (n + ties) if n + ties else None,
        "sign_test_p": st.sign_test(wins, n),
        "equivalence": {"margin": margin, "p": st.equivalence_test(wins, n, margin)},
        "tie_rate": _rate(ties, n + ties),
        "ties_policy": TIES,
        "unseen": int((pairs["choice"] == "unseen").sum()),
        "raters": _per_rater(decided, names["a"]),
        "left_share": _rate(int((decided["choice"] == "left").sum()), n),
        "repeats": _consistency(used),
        "agreement_alpha": st.krippendorff_nominal(*(seen[c].to_numpy(dtype=str) for c in ("item", "winner"))),
        "catch": {
            "allowed": catch_allowed,
            "trials": len(catches),
            "failed": int(catches["failed"].sum()),
            "rule": "failed: the scrambled picture or no side chosen, or a side chosen between identical pictures",
        },
        "excluded": excluded,
        "sheets_used": int(used.groupby(["sheet", "rater"]).ngroups),
        "median_response_ms": float(pairs["response_ms"].median()) if len(pairs) else None,
        "level": st.LEVEL,
    }


def report(result: dict[str, Any]) -> str:
    """The figures of ``analyse`` as lines of text."""
    lines = [f"A = {result['a']}, B = {result['b']}"]
    for title, name in (
        ("win rate of A, exact", "win_rate"),
        ("win rate of A, raters and items as clusters", "win_rate_two_way"),
        ("tie rate", "tie_rate"),
        ("left chosen", "left_share"),
        ("repeats answered alike", "repeats"),
    ):
        lines.append(f"{title}: {_text(result[name])}")
    equivalence = result["equivalence"]
    lines += [
        f"sign test p = {result['sign_test_p']:.4g}; equivalence within 0.5 +- {equivalence['margin']:g}: "
        f"p = {equivalence['p']:.4g}",
        f"catch trials failed: {result['catch']['failed']} of {result['catch']['trials']}; "
        f"sheets used {result['sheets_used']}, excluded {len(result['excluded'])}",
        *(f"  rater {row['rater']}: {_text(row)}" for row in result["raters"]),
        result["ties_policy"],
    ]
    return "\n".join(lines)


def _text(number: Number | None) -> str:
    if number is None:
        return "no votes"
    return f"{number['value']:.3f} [{number['ci_low']:.3f}, {number['ci_high']:.3f}], n = {number['n']}"


def _rate(wins: int, n: int) -> Number | None:
    if n == 0:
        return None
    low, high = st.clopper_pearson(wins, n)
    return {"value": wins / n, "ci_low": low, "ci_high": high, "n": n}


def _two_way(won: Any, decided: pd.DataFrame) -> Number | None:
    interval = st.two_way_interval(won, decided["rater"].to_numpy(dtype=str), decided["item"].to_numpy(dtype=str))
    if interval is None:
        return None
    return {"value": float(won.mean()), "ci_low": interval[0], "ci_high": interval[1], "n": len(won)}


def _per_rater(decided: pd.DataFrame, a: str) -> list[Number]:
    rows: list[Number] = []
    for rater, part in decided.groupby("rater"):
        rate = _rate(int((part["winner"] == a).sum()), len(part))
        if rate is not None:
            rows.append({"rater": str(rater), **rate})
    return rows


def _catches(votes: pd.DataFrame) -> pd.DataFrame:
    """Catch trials with ``failed``: identical pictures want no side, a scrambled one wants the other side."""
    catches = votes[votes["kind"] == "catch"]
    chose_side = catches["choice"].isin(["left", "right"])
    identical = catches["left"] == catches["right"]
    intact = chose_side & ~catches["winner"].str.endswith("(scrambled)")
    return catches.assign(failed=(identical & chose_side) | (~identical & ~intact))


def _consistency(votes: pd.DataFrame) -> Number | None:
    """Share of repeats with the same winner (or the same tie) as the original, whose sides were the other way round."""
    index = ["sheet", "rater", "item"]
    first = votes[votes["kind"] == "pair"].set_index(index)["winner"]
    again = votes[votes["kind"] == "repeat"].set_index(index)["winner"]
    both = again.to_frame("again").join(first.rename("first"), how="inner")
    return _rate(int((both["again"] == both["first"]).sum()), len(both))
