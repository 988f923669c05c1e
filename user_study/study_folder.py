"""The folder ``studies/ID``: names of its files and the one reader and writer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.contract.errors import CnlabError, first_line
from pipeline.contract.files import atomic, read_json, remove, remove_parts, write_json
from pipeline.contract.identity import code_version, sha256_file
from user_study.design.trials import Trial

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 2  # of study.json and key.json; 1 had two sides called left and right
HEADER, KEY, SHEETS = "study.json", "key.json", "sheets"
ANSWERS, VOTES, ANALYSIS, REPORT = "answers", "votes.parquet", "analysis.json", "report.html"
REFUSED = "refused.json"  # what an import did not take, and why
SIMULATED = "simulated"  # folder of simulated answers, votes and reports within the study
#: Columns of votes.parquet, in order. ``shown``: JSON of the subjects from left to right; ``winner``: the subject
#: chosen (of a ranking the first, in discrimination the kind that was said), or tie or unseen.
COLUMNS = (
    "study", "sheet", "rater", "trial", "item", "key", "group", "kind", "shown", "choice", "winner",
    "response_ms", "simulated",
)  # fmt: skip
#: Of studies that do not name a rule. "alike": left out when no repeat was answered alike, as before "contrary".
UNKNOWN_RULES = {"catch_allowed": 1, "repeats_needed": 0, "repeats_rule": "alike", "margin": 0.1}


@dataclass(frozen=True)
class Study:
    """A complete study folder whose key and sheets are those that the header promises.

    Attributes
    ----------
    folder : Path
    header : dict
    names : dict of str
        Letter of a side -> subject as in the results table.
    keys, groups : dict
        Item -> key of the sample in the dataset, and generation group of its pictures.
    trials : dict of dict of Trial
        Sheet -> trial id -> trial.
    seeds : dict of str
        Sheet -> seed.
    """

    folder: Path
    header: dict[str, Any]
    names: dict[str, str]
    keys: dict[str, str]
    groups: dict[str, int]
    trials: dict[str, dict[str, Trial]]
    seeds: dict[str, str]

    @property
    def id(self) -> str:
        """Opaque id that the sheets carry."""
        return str(self.header["study"])

    @property
    def config(self) -> dict[str, Any]:
        """Resolved config of the study."""
        return dict(self.header["config"])

    @property
    def foreign(self) -> bool:
        """Whether its votes were made elsewhere: it has no sheets, no catch trials and no sides."""
        return bool(self.header.get("foreign"))

    @property
    def mode(self) -> str:
        """paired, ranking or discrimination."""
        return str(self.config.get("mode", "paired"))

    @property
    def subjects(self) -> list[str]:
        """Subjects in the order of the study; rates are the first's."""
        return [self.names[letter] for letter in sorted(self.names)]

    @property
    def rules(self) -> dict[str, Any]:
        """Rules of the analysis, fixed when the study was made."""
        return {name: self.config.get(name, default) for name, default in UNKNOWN_RULES.items()}

    def token(self, sheet: str) -> str:
        """sha256 of a sheet's payload, which its answers repeat."""
        return str(self.header["sheets"][sheet]["token"])

    def page(self, sheet: str) -> Path:
        """The HTML file of a sheet."""
        return self.folder / SHEETS / f"{sheet}.html"

    def label(self, side: str) -> str:
        """Subject of a side as votes.parquet names it."""
        return self.names[side[0]] + (" (scrambled)" if side.endswith("*") else "")


def read_study(folder: Path) -> Study:
    """Read a study; raises CnlabError when unfinished, or when the key or a sheet was changed since it was made."""
    header = read_json(folder / HEADER)
    try:
        if header["format"] not in (1, FORMAT):
            raise CnlabError(f"{folder / HEADER} has format {header['format']}; this version reads 1 and {FORMAT}")
        return _read_key(folder, header)
    except (KeyError, TypeError, AttributeError) as error:
        raise CnlabError(f"{folder / HEADER} is not the header of a study ({first_line(error)})") from error


def _read_key(folder: Path, header: dict[str, Any]) -> Study:
    if header.get("foreign"):
        names = dict(zip("abcdefghij", header["config"]["subjects"], strict=False))
        return Study(folder, header, names, {}, {}, {}, {})
    path = folder / KEY
    key = read_json(path)
    if sha256_file(path) != header["key_sha256"]:
        raise CnlabError(f"{path} was changed after the study was made; put the original back")
    trials = {
        name: {trial: _trial(trial, entry) for trial, entry in sheet["trials"].items()}
        for name, sheet in key["sheets"].items()
    }
    seeds = {name: str(sheet["seed"]) for name, sheet in key["sheets"].items()}
    names = key["subjects"] if "subjects" in key else {"a": key["a"], "b": key["b"]}
    study = Study(folder, header, dict(names), dict(key["items"]), dict(key.get("groups", {})), trials, seeds)
    for name, sheet in header["sheets"].items():
        if study.page(name).exists() and sha256_file(study.page(name)) != sheet["sha256"]:
            raise CnlabError(f"{study.page(name)} was changed after the study was made; put the original back")
    return study


def _trial(name: str, entry: Mapping[str, Any]) -> Trial:
    shown = tuple(entry["shown"]) if "shown" in entry else (entry["left"], entry["right"])
    expected = str(entry.get("expected", ""))
    if not expected and entry["kind"] == "catch":  # format 1 left it to the analysis
        expected = "tie" if shown[0] == shown[1] else "right" if shown[0].endswith("*") else "left"
    return Trial(name, entry["block"], entry["kind"], entry["item"], shown, expected)


def write_sheets(folder: Path, pages: Iterable[tuple[str, bytes]]) -> dict[str, str]:
    """Write the pages of a study whose header is not there yet; returns the sha256 of each."""
    for path in (folder / SHEETS).glob("*.html"):
        path.unlink()  # of a build that was stopped before its header
    if (folder / SHEETS).is_dir():
        remove_parts(folder / SHEETS)
    remove_parts(folder)
    sums = {}
    for name, page in pages:
        path = folder / SHEETS / f"{name}.html"
        with atomic(path) as temporary:
            temporary.write_bytes(page)
        sums[name] = sha256_file(path)
    return sums


def write_key(folder: Path, key: dict[str, Any]) -> str:
    """Write the key and return its sha256."""
    write_json(folder / KEY, key)
    return sha256_file(folder / KEY)


def write_header(folder: Path, header: dict[str, Any]) -> None:
    """Write the header, last of all, with the version of the code."""
    write_json(folder / HEADER, {"format": FORMAT, **header, **code_version()})


def part_of(folder: Path, simulated: bool) -> Path:
    """Where answers, votes and reports lie: in the study itself, or below it when they are simulated."""
    return folder / SIMULATED if simulated else folder


def write_answers(folder: Path, name: str, document: dict[str, Any]) -> bool:
    """Store one accepted document; False when it is there already."""
    path = folder / ANSWERS / f"{name}.json"
    if path.exists():
        return False
    write_json(path, document)
    return True


def stored_answers(folder: Path) -> list[Path]:
    """The documents that were accepted so far."""
    return sorted((folder / ANSWERS).glob("*.json"))


def clear_answers(folder: Path) -> None:
    """Remove stored documents and what was made of them; for simulated ones only."""
    for name in (ANSWERS, VOTES, ANALYSIS, REPORT, REFUSED):
        remove(folder / name)


def write_votes(folder: Path, votes: pd.DataFrame) -> None:
    """Write votes.parquet."""
    with atomic(folder / VOTES) as temporary:
        votes[list(COLUMNS)].to_parquet(temporary, index=False)


def read_votes(path: Path) -> pd.DataFrame:
    """The votes in a folder or file, of both formats; raises CnlabError when there are none or they are damaged."""
    import pandas as pd

    path = path / VOTES if path.is_dir() else path
    if not path.exists():
        raise CnlabError(f"{path} does not exist; import answers first")
    try:
        votes = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise CnlabError(
            f"{path} cannot be read ({first_line(error)}); delete it and import the answers again"
        ) from error
    missing = [name for name in ("rater", "item", "kind", "choice", "winner") if name not in votes.columns]
    if missing:
        raise CnlabError(f"{path} lacks the columns {', '.join(missing)}; import the answers again")
    return votes


def write_outcome(folder: Path, analysis: dict[str, Any], page: str) -> None:
    """Write analysis.json and report.html."""
    write_json(folder / ANALYSIS, analysis)
    with atomic(folder / REPORT) as temporary:
        temporary.write_text(page, encoding="utf-8")


def write_refused(folder: Path, refused: list[dict[str, Any]]) -> None:
    """Write what the last import did not take; nothing is left of an earlier one."""
    if refused:
        write_json(folder / REFUSED, refused)
    else:
        remove(folder / REFUSED)
