"""Reading a study back, and deciding whether an answer file belongs to it and is whole and unchanged."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.contract.errors import CnlabError
from pipeline.contract.files import read_json
from pipeline.contract.identity import canonical, sha256_file
from user_study.design.trials import Trial, display_order

CHOICES = ("left", "right", "tie", "unseen")
RATER = re.compile(r"[a-z0-9_-]{1,32}")
MAX_BYTES = 4_000_000  # an answer takes some 200 bytes
FIELDS = {"study", "sheet", "token", "seed", "rater", "started", "finished", "order", "answers"}
ANSWER_FIELDS = {"trial", "choice", "response_ms", "hidden_ms", "views", "window"}


@dataclass(frozen=True)
class Study:
    """A complete study folder whose key and sheets are those that ``study.json`` promises."""

    folder: Path
    header: dict[str, Any]
    names: dict[str, str]  # a, b -> run name as in the results table
    trials: dict[str, dict[str, Trial]]  # sheet -> trial id -> trial
    seeds: dict[str, str]  # sheet -> seed

    @property
    def id(self) -> str:
        """Opaque id that the sheets carry."""
        return str(self.header["study"])

    @property
    def config(self) -> dict[str, Any]:
        """Resolved config of the study."""
        return dict(self.header["config"])


@dataclass(frozen=True)
class Filled:
    """One checked answer file."""

    path: Path
    sheet: str
    rater: str
    seal: str
    document: dict[str, Any]

    @property
    def answers(self) -> list[dict[str, Any]]:
        """``trial, choice, response_ms, hidden_ms, views, window`` in the order shown."""
        return list(self.document["payload"]["answers"])


def load_study(folder: Path) -> Study:
    """Read a study; raises CnlabError when unfinished, or when the key or a sheet was changed since it was made."""
    header = read_json(folder / "study.json")
    try:
        return _load(folder, header)
    except (KeyError, TypeError) as error:
        raise CnlabError(f"{folder / 'study.json'} is not the header of a study ({error})") from error


def _load(folder: Path, header: dict[str, Any]) -> Study:
    key_path = folder / "key.json"
    key = read_json(key_path)
    if sha256_file(key_path) != header["key_sha256"]:
        raise CnlabError(f"{key_path} was changed after the study was made; put the original back")
    for name, sheet in header["sheets"].items():
        page = folder / "sheets" / f"{name}.html"
        if page.exists() and sha256_file(page) != sheet["sha256"]:
            raise CnlabError(f"{page} was changed after the study was made; put the original back")
    trials = {
        name: {trial: Trial(id=trial, **entry) for trial, entry in sheet["trials"].items()}
        for name, sheet in key["sheets"].items()
    }
    seeds = {name: str(sheet["seed"]) for name, sheet in key["sheets"].items()}
    return Study(folder, header, {"a": key["a"], "b": key["b"]}, trials, seeds)


def seal(payload: dict[str, Any]) -> str:
    """sha256 of the token and the canonical payload, as the sheet computes it.

    It shows accidents and edits by hand; someone who studies the sheet's script can forge it.
    """
    return hashlib.sha256(f"{payload['token']}\0{canonical(payload)}".encode(errors="replace")).hexdigest()


def read_answers(path: Path, study: Study) -> Filled:
    """Check one answer file against ``study``; raises CnlabError saying what is wrong with it."""
    document = _read(path)
    payload = document["payload"]
    if payload["study"] != study.id:
        raise CnlabError(f"{path} belongs to study {_show(payload['study'])}, not to {study.folder} ({study.id})")
    name = payload["sheet"]
    if not isinstance(name, str) or name not in study.trials:
        raise CnlabError(f"{path}: this study has no sheet {_show(name)}")
    if payload["token"] != study.header["sheets"][name]["token"]:
        raise CnlabError(f"{path} comes from a copy of {name} with other contents; use the sheet that was made")
    if document.get("seal") != seal(payload):
        raise CnlabError(f"{path} was edited after the sheet wrote it (its seal does not fit); ask for the original")
    _check_trials(path, payload, study, name)
    return Filled(path, name, payload["rater"], document["seal"], document)


def _show(value: object) -> str:
    return json.dumps(value)[:40]


def _read(path: Path) -> dict[str, Any]:
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        raise CnlabError(f"{path} is too large for an answer file")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CnlabError(f"{path} does not exist") from error
    except (ValueError, RecursionError) as error:
        raise CnlabError(
            f"{path} is not valid JSON; ask for the whole file, or for the text of the last page"
        ) from error
    if not isinstance(document, dict) or document.get("format") != "picture-answers":
        raise CnlabError(f"{path} is not an answer file of a sheet")
    if document.get("version") != 1:
        raise CnlabError(f"{path} has answer format {_show(document.get('version'))}, this version reads 1")
    payload = document.get("payload")
    if not isinstance(payload, dict) or set(payload) != FIELDS or not isinstance(payload["answers"], list):
        raise CnlabError(f"{path} is an answer file with parts missing or added; ask for the original")
    return document


def _check_trials(path: Path, payload: dict[str, Any], study: Study, name: str) -> None:
    rater, trials = payload["rater"], study.trials[name]
    if not isinstance(rater, str) or not RATER.fullmatch(rater):
        raise CnlabError(f"{path}: rater code {_show(rater)} is not 1 to 32 of a-z, 0-9, - and _")
    if payload["seed"] != study.seeds[name]:
        raise CnlabError(f"{path}: its seed is not the one of {name}")
    for answer in payload["answers"]:
        _check_answer(path, answer)
    given = [answer["trial"] for answer in payload["answers"]]
    elsewhere = {trial for other, known in study.trials.items() if other != name for trial in known}
    if set(given) & elsewhere:
        raise CnlabError(f"{path} mixes trials of {name} with those of another sheet")
    missing = len(trials.keys() - set(given))
    if missing:
        raise CnlabError(f"{path} lacks {missing} of {len(trials)} trials; the rater has to finish the sheet")
    order = display_order({trial: entry.block for trial, entry in trials.items()}, study.seeds[name], rater)
    if given != order or payload["order"] != order:
        raise CnlabError(f"{path}: its trials are not in the order that {name} shows rater {rater}")


def _check_answer(path: Path, answer: object) -> None:
    good = isinstance(answer, dict) and set(answer) == ANSWER_FIELDS and isinstance(answer["trial"], str)
    if not isinstance(answer, dict) or not good or answer["choice"] not in CHOICES:
        raise CnlabError(f"{path} holds an answer that no sheet writes: {_show(answer)}")
    window = answer["window"]
    if not isinstance(window, list) or len(window) != 2 or any(type(edge) is not int for edge in window):
        raise CnlabError(f"{path}: the window size of trial {_show(answer['trial'])} is not two whole numbers")
    for field in ("response_ms", "hidden_ms", "views"):
        if type(answer[field]) is not int or not 0 <= answer[field] < 2**53:
            raise CnlabError(f"{path}: {field} of trial {_show(answer['trial'])} is not a whole number from 0")
