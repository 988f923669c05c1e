"""Deciding which answers of a document belong to a study, are whole and were not changed."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

from pipeline.contract.identity import canonical
from user_study.design.trials import Trial
from user_study.study_folder import Study
from user_study.votes.reading import FORMAT, Document

VERSIONS = (1, 2)  # 1 had no seals of single answers
CHOICES = {
    "paired": ("left", "right", "tie", "unseen"),
    "discrimination": ("first", "second", "unseen"),
}
SIMULATED_RATER = "simulated-"  # codes of simulated raters begin so
RATER = re.compile(r"[a-z0-9_-]{1,32}")
ANSWER_FIELDS = {"trial", "choice", "response_ms", "hidden_ms", "views", "window"}
ZEROS = 8  # longest code of digits whose zeros are put back
OTHERWISE = "ask for the original file"


@dataclass(frozen=True)
class Filled:
    """The good answers of one document.

    Attributes
    ----------
    source : str
    document : dict
        As it is stored in answers/.
    sheet, rater, started : str
        Whose session this is.
    answers : list of dict
        ``trial, choice, response_ms, hidden_ms, views, window``, each trial once.
    problems : list of str
        What was not taken, and remarks on the file; not empty for a document without good answers.
    simulated : bool
    """

    source: str
    document: dict[str, Any]
    sheet: str = ""
    rater: str = ""
    started: str = ""
    answers: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    simulated: bool = False

    @property
    def name(self) -> str:
        """Name under which the document is stored: its own content decides it."""
        content = hashlib.sha256(canonical(self.document).encode(errors="replace")).hexdigest()
        return f"{self.sheet}-{self.rater}-{content[:8]}"


def seal(payload: dict[str, Any]) -> str:
    """sha256 of the token and the canonical payload, as the sheet computes it.

    It shows accidents and edits by hand; someone who studies the sheet's script can forge it.
    """
    return hashlib.sha256(f"{payload['token']}\0{canonical(payload)}".encode(errors="replace")).hexdigest()


def answer_seal(token: str, rater: str, answer: dict[str, Any]) -> str:
    """16 hex digits over the token, the rater and one answer without its seal."""
    plain = {name: value for name, value in answer.items() if name != "seal"}
    return hashlib.sha256("\0".join((token, rater, canonical(plain))).encode(errors="replace")).hexdigest()[:16]


def completion_code(token: str, rater: str) -> str:
    """The code that a sheet shows at its end."""
    return hashlib.sha256("\0".join((token, rater, "complete")).encode()).hexdigest()[:8].upper()


def check(document: Document, study: Study) -> Filled:
    """The good answers of ``document``, and what is wrong with the rest."""
    source, content = document.source, document.content
    if content is None:
        return Filled(source, {}, problems=[document.problem])
    refusal = _refusal(content, study)
    if refusal:
        return Filled(source, content, problems=[refusal])
    payload = {**content["payload"], "rater": _rater(content["payload"], content["version"], study)}
    content = {**content, "payload": payload}
    sheet, rater, sealed = payload["sheet"], payload["rater"], content.get("seal") == seal(payload)
    problems = [document.problem] if document.problem else []
    if content["version"] == 1 and not sealed:
        return Filled(source, content, problems=[f"was edited after the sheet wrote it; {OTHERWISE}"])
    good: dict[str, dict[str, Any]] = {}
    for number, answer in enumerate(payload["answers"], start=1):
        problem = _answer_problem(answer, study, sheet) or _seal_problem(content["version"], payload, answer)
        if not problem and answer["trial"] in good:
            problem = "is there twice; the first counts"
        if problem:
            problems.append(f"answer {number}: {problem}")
        else:
            good[answer["trial"]] = {name: answer[name] for name in ANSWER_FIELDS}
    if good and not sealed and "seal" in content:
        problems.append("was edited after the sheet wrote it; the answers whose own seals fit were taken")
    missing = len(study.trials[sheet]) - len(good)
    if missing:
        problems.append(f"{missing} of {len(study.trials[sheet])} answers are not there; what is there counts")
    started = str(payload.get("started", ""))
    simulated = bool(payload.get("simulated")) or rater.startswith(SIMULATED_RATER)  # also of a file that was cut
    return Filled(source, content, sheet, rater, started, list(good.values()), problems, simulated)


def _refusal(content: dict[str, Any], study: Study) -> str:
    """Why nothing of a document can be used; empty when something can."""
    payload = content.get("payload")
    if content.get("format") != FORMAT or not isinstance(payload, dict):
        return "is not an answer file of a sheet"
    if content.get("version") not in VERSIONS:
        return f"has answer format {_show(content.get('version'))}; this version reads 1 and 2"
    if not isinstance(payload.get("answers"), list) or not {"study", "sheet", "token", "rater"} <= payload.keys():
        return f"has parts missing; {OTHERWISE}"
    sheet, rater = payload["sheet"], payload["rater"]
    if payload["study"] != study.id and not _rewritten(payload["study"], study.id):
        return f"belongs to study {_show(payload['study'])}, not to {study.folder} ({study.id})"
    if not isinstance(sheet, str) or sheet not in study.trials:
        return f"names sheet {_show(sheet)}, which this study does not have"
    if payload["token"] != study.token(sheet):
        return f"comes from a copy of {sheet} with other contents; use the sheet that was made"
    if not isinstance(rater, str) or not RATER.fullmatch(rater):
        return f"has the rater code {_show(rater)}, which is not 1 to 32 of a-z, 0-9, - and _"
    return ""


def _show(value: object) -> str:
    return json.dumps(value)[:40]


def _answer_problem(answer: object, study: Study, sheet: str) -> str:
    if not isinstance(answer, dict) or not answer.keys() >= ANSWER_FIELDS:
        return f"is no answer that a sheet writes: {_show(answer)}"
    name = answer["trial"]
    if not isinstance(name, str) or name not in study.trials[sheet]:
        elsewhere = [other for other, trials in study.trials.items() if isinstance(name, str) and name in trials]
        return f"is of {elsewhere[0]}, not of {sheet}" if elsewhere else f"is of trial {_show(name)}, which is nowhere"
    if not valid_choice(answer["choice"], study.mode, study.trials[sheet][name]):
        return f"says {_show(answer['choice'])}, which the sheet does not offer"
    window = answer["window"]
    if not isinstance(window, list) or len(window) != 2 or any(type(edge) is not int for edge in window):
        return f"has the window size {_show(window)}, not two whole numbers"
    for number in ("response_ms", "hidden_ms", "views"):
        if type(answer[number]) is not int or not 0 <= answer[number] < 2**53:
            return f"has {number} {_show(answer[number])}, not a whole number from 0"
    return ""


def _seal_problem(version: int, payload: dict[str, Any], answer: dict[str, Any]) -> str:
    if version == 1 or _fits(payload["token"], payload["rater"], answer):
        return ""
    return "was edited after the sheet wrote it (its seal does not fit)"


def _fits(token: str, rater: str, answer: dict[str, Any]) -> bool:
    expected = answer_seal(token, rater, answer)
    return answer.get("seal") == expected or _rewritten(answer.get("seal"), expected)


def _rewritten(cell: object, text: str) -> bool:
    """Whether a spreadsheet took ``text``, digits that look like a number, for one: 1234567890123456 is 1.23457E+15."""
    if not isinstance(cell, str) or not re.fullmatch(r"\d+(e\d+)?", text):
        return False
    try:
        return math.isclose(float(cell.replace(",", ".")), float(text), rel_tol=1e-5)
    except ValueError:
        return False


def _rater(payload: dict[str, Any], version: int, study: Study) -> str:
    """The rater's code; of digits, with the zeros in front that a spreadsheet took away, where a seal fits only so."""
    rater = str(payload["rater"])
    if version == 1 or not rater.isdecimal():
        return rater
    answers = [answer for answer in payload["answers"] if not _answer_problem(answer, study, payload["sheet"])]
    codes = (rater.zfill(length) for length in range(len(rater), ZEROS + 1))
    return next((code for code in codes if any(_fits(payload["token"], code, a) for a in answers)), rater)


def valid_choice(choice: object, mode: str, trial: Trial) -> bool:
    """Whether a sheet of ``mode`` offers ``choice`` at ``trial``."""
    if not isinstance(choice, str):
        return False
    if mode != "ranking":
        return choice in CHOICES[mode]
    return choice == "unseen" or sorted(choice.split(">")) == [str(n) for n in range(len(trial.shown))]
