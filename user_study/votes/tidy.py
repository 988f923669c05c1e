"""``cnlab-study tidy``: votes made elsewhere, a CSV with the columns rater, item, choice -> a study folder."""

from __future__ import annotations

import json

from pipeline.contract.errors import CnlabError
from pipeline.contract.files import lock_folder
from pipeline.contract.identity import check_fingerprint, fingerprint, sha256_file
from user_study.config import Tidy
from user_study.study_folder import COLUMNS, HEADER, write_header, write_votes
from user_study.votes.reading import csv_rows, decode

NEEDED = ("rater", "item", "choice")


def import_table(config: Tidy) -> None:
    """Check the table and write the study with its analysis; the same command again does nothing new.

    Raises CnlabError naming the first line that cannot be read: a table is one thing, made by a program.
    """
    import pandas as pd

    from user_study.analysis.analyse import analyse_study

    if not config.table.is_file():
        raise CnlabError(f"{config.table} does not exist; give a CSV with the columns rater, item, choice")
    resolved = {
        "mode": config.mode,
        "criterion": config.criterion,
        "subjects": list(config.subjects),
        "margin": config.margin,
        "catch_allowed": 0,
        "repeats_needed": 0,
        "table": sha256_file(config.table),
    }
    identity = fingerprint(resolved)
    rows = [_row(config, line, row) for line, row in csv_rows(decode(config.table.read_bytes()), set(NEEDED))]
    if not rows:
        raise CnlabError(f"{config.table} has no head with rater, item and choice, or no rows below it")
    frame = pd.DataFrame(rows, columns=["rater", "item", "shown", "choice", "winner"])
    votes = frame.assign(
        study=identity[:12], sheet="table", trial=frame["item"], key=frame["item"], group=0, kind="pair",
        response_ms=0, simulated=False,
    )  # fmt: skip
    with lock_folder(config.out):
        check_fingerprint(config.out / HEADER, identity)
        write_votes(config.out, votes[list(COLUMNS)])
        header = {"study": identity[:12], "config": resolved, "fingerprint": identity, "foreign": True}
        write_header(config.out, header)
        print(f"{len(votes)} votes of {frame['rater'].nunique()} raters on {frame['item'].nunique()} items")
        print(analyse_study(config.out))


def _row(config: Tidy, line: int, row: dict[str, str]) -> tuple[str, str, str, str, str]:
    """rater, item, shown, choice and winner of one line, in the words of the study's own votes."""
    rater, item, choice = (row.get(name, "") for name in NEEDED)
    names = list(config.subjects)
    if not rater or not item:
        raise CnlabError(f"{config.table}, line {line}: rater and item must not be empty")
    if config.mode == "ranking":
        order = [name.strip() for name in choice.split(">")]
        if sorted(order) != sorted(names):
            raise CnlabError(f"{config.table}, line {line}: {choice!r} is no order of {', '.join(names)} joined by >")
        return rater, item, json.dumps(names), ">".join(str(names.index(name)) for name in order), order[0]
    if config.mode == "discrimination":
        shown = row.get("shown") or names[0]
        other = next((name for name in names if name != shown), "")
        answer = {"1": shown, "0": other}.get(choice, choice)
        if shown not in names or answer not in names:
            raise CnlabError(f"{config.table}, line {line}: {choice!r} is neither 1, 0 nor one of {', '.join(names)}")
        return rater, item, json.dumps([shown]), "first" if answer == names[0] else "second", answer
    if choice not in (*names, "tie", "unseen"):
        raise CnlabError(f"{config.table}, line {line}: {choice!r} is neither tie nor one of {', '.join(names)}")
    return rater, item, json.dumps(names), {names[0]: "left", names[1]: "right"}.get(choice, choice), choice
