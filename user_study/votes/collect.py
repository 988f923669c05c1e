"""``cnlab-study import``: answers as they arrive -> votes.parquet, analysis.json, report.html and result rows."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.contract.errors import CnlabError
from pipeline.contract.files import lock_folder, read_json
from pipeline.contract.text import for_terminal
from user_study.config import Import
from user_study.design.trials import Trial
from user_study.study_folder import (
    COLUMNS,
    REFUSED,
    Study,
    part_of,
    read_study,
    stored_answers,
    write_answers,
    write_refused,
    write_votes,
)
from user_study.votes.answers import Filled, check
from user_study.votes.reading import Document, read_documents

if TYPE_CHECKING:
    import pandas as pd

SHOWN_LINES = 20  # of what was not taken; the rest is in refused.json


def import_answers(config: Import) -> None:
    """Import answers: the good ones are stored and counted, the others listed.

    Accepted documents are stored in answers/ of the study, and votes.parquet is made from that folder alone: importing
    twice changes nothing. Simulated answers have a folder of their own. Raises CnlabError when nothing could be used.
    """
    study = read_study(config.study)  # before the lock, which would make the folder of a mistyped name
    if not study.trials:
        raise CnlabError(f"{config.study} holds votes that were made elsewhere; it has no sheets to import answers of")
    documents = read_documents(config.answers)
    with lock_folder(config.study):
        checked = [check(document, study) for document in documents]
        good = [filled for filled in checked if filled.answers]
        refused = [{"file": f.source, "problem": problem} for f in checked for problem in f.problems]
        _list(refused, len(checked) - len(good), len(checked))
        if not good:
            write_refused(config.study, refused)
            raise CnlabError(
                f"none of {len(checked)} files could be used; {refused[0]['file']} {refused[0]['problem']}"
            )
        for simulated in sorted({filled.simulated for filled in good}):
            own = [filled for filled in good if filled.simulated == simulated]
            _import_part(config, study, own, refused, simulated)


def _import_part(
    config: Import, study: Study, good: list[Filled], refused: list[dict[str, str]], simulated: bool
) -> None:
    from user_study.analysis.analyse import analyse_study
    from user_study.votes.rows import write_rows

    folder = part_of(study.folder, simulated)
    new = sum(write_answers(folder, filled.name, filled.document) for filled in good)
    votes, remarks = collect(study, folder)
    write_votes(folder, votes)
    for remark in remarks:
        print(for_terminal(f"note: {remark}"))
    write_refused(folder, refused + [{"file": "", "problem": remark} for remark in remarks])
    kind = "simulated " if simulated else ""
    sheets = votes.groupby(["sheet", "rater"]).ngroups if len(votes) else 0
    print(f"{new} new answer files; {len(votes)} {kind}answers to {sheets} sheets in all")
    print(analyse_study(study.folder, simulated, config.results))
    if simulated and not config.simulated_rows:
        print("votes are simulated: no rows written to the results table")
    else:
        write_rows(config, study, simulated)


def _list(refused: list[dict[str, str]], unusable: int, files: int) -> None:
    for entry in refused[:SHOWN_LINES]:
        print(for_terminal(f"{entry['file']}: {entry['problem']}"))
    if len(refused) > SHOWN_LINES:
        print(f"... and {len(refused) - SHOWN_LINES} more, all of them in {REFUSED}")
    if unusable:
        print(f"{unusable} of {files} files could not be used")


def collect(study: Study, folder: Path) -> tuple[pd.DataFrame, list[str]]:
    """The votes of the stored documents, and remarks on raters who answered a sheet twice."""
    filled = [check(Document(path.name, read_json(path)), study) for path in stored_answers(folder)]
    sessions, remarks = merge([each for each in filled if each.answers])
    return votes_table(study, sessions), remarks


def merge(filled: list[Filled]) -> tuple[list[Filled], list[str]]:
    """One session a rater and sheet, whatever the order in which documents come.

    Documents with the same time of start are one session, saved at different times: their answers are joined, and of a
    trial in several the one in the longest document counts. Of several sessions the longest counts, of equally long
    ones the earliest; the others are remarked on.
    """
    sessions: dict[tuple[str, str], dict[str, Filled]] = {}
    for each in sorted(filled, key=lambda f: (-len(f.answers), f.name)):
        own = sessions.setdefault((each.sheet, each.rater), {})
        if each.started not in own:
            own[each.started] = each
            continue
        known = {answer["trial"] for answer in own[each.started].answers}
        own[each.started].answers.extend(a for a in each.answers if a["trial"] not in known)
    chosen, remarks = [], []
    for (sheet, rater), own in sorted(sessions.items()):
        first, *others = sorted(own.values(), key=lambda f: (-len(f.answers), f.started, f.name))
        chosen.append(first)
        remarks += [
            f"rater {rater} answered {sheet} more than once; the session of {first.started} with "
            f"{len(first.answers)} answers counts, that of {other.started} ({len(other.answers)}) does not: give each "
            "rater a code of their own"
            for other in others
        ]
    return chosen, remarks


def votes_table(study: Study, filled: Iterable[Filled]) -> pd.DataFrame:
    """One row a trial and rater, with the columns of ``COLUMNS``, sorted by sheet, rater and trial."""
    import pandas as pd

    rows = []
    for session in sorted(filled, key=lambda f: (f.sheet, f.rater)):
        for answer in sorted(session.answers, key=lambda a: a["trial"]):
            trial = study.trials[session.sheet][answer["trial"]]
            shown = [study.label(side) for side in trial.shown]
            rows.append(
                (
                    study.id,
                    session.sheet,
                    session.rater,
                    trial.id,
                    trial.item,
                    study.keys.get(trial.item, ""),
                    study.groups.get(trial.item, 0),
                    trial.kind,
                    json.dumps(shown),
                    answer["choice"],
                    winner(study, trial, answer["choice"]),
                    answer["response_ms"],
                    session.simulated,
                )
            )
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(
        {"response_ms": "int64", "group": "int64", "simulated": "bool"}
    )


def winner(study: Study, trial: Trial, choice: str) -> str:
    """Subject that a choice names: the better one, the best of a ranking, the kind that was said; or the choice."""
    places = {"left": 0, "right": 1}
    if study.mode == "ranking" and choice != "unseen":
        return study.label(trial.shown[int(choice.split(">")[0])])
    if study.mode == "discrimination":
        return {"first": study.names["a"], "second": study.names["b"]}.get(choice, choice)
    return study.label(trial.shown[places[choice]]) if choice in places else choice


def complete(study: Study, votes: pd.DataFrame) -> list[dict[str, Any]]:
    """For each rater and sheet: answers, whether it is complete, and the completion code to compare with."""
    from user_study.votes.answers import completion_code

    return [
        {
            "rater": str(rater),
            "sheet": str(sheet),
            "answers": len(part),
            "complete": len(part) == len(study.trials[str(sheet)]),
            "code": completion_code(study.token(str(sheet)), str(rater)),
        }
        for (sheet, rater), part in votes.groupby(["sheet", "rater"])
        if str(sheet) in study.trials
    ]
