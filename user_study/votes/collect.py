"""``cnlab-study import``: answer files -> votes.parquet, analysis.json and rows of the results table."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.contract.errors import CnlabError
from pipeline.contract.files import atomic, lock_folder, read_json, write_json
from pipeline.contract.identity import code_version
from user_study.config import Import
from user_study.sheets.pictures import run_summary
from user_study.votes.answers import Filled, Study, load_study, read_answers

if TYPE_CHECKING:
    import pandas as pd

METRIC_VERSION = "1"
METRICS = ("study_win_rate", "study_win_rate_two_way", "study_tie_rate")
#: Columns of votes.parquet, in order. ``winner`` is the run chosen, or tie or unseen.
COLUMNS = (
    "study",
    "sheet",
    "rater",
    "trial",
    "item",
    "kind",
    "left",
    "right",
    "choice",
    "winner",
    "response_ms",
)


def import_answers(config: Import) -> None:
    """Import answer files; all are checked before anything is written, so one bad file changes nothing.

    The accepted files are kept in answers/ of the study, and votes.parquet is made from that folder alone: importing a
    file twice changes nothing. Raises CnlabError as ``read_answers`` does, and when a rater filled one sheet twice.
    """
    from user_study.analysis.report import analyse_study

    load_study(config.study)  # before the lock, which would make the folder of a mistyped name
    with lock_folder(config.study):
        study = load_study(config.study)
        kept = {(f.sheet, f.rater): f for f in _read_all(_files([study.folder / "answers"], may_be_empty=True), study)}
        new = _merge(kept, _read_all(_files(config.answers), study))
        _refuse_clash(config, study)
        for filled in new:
            write_json(study.folder / "answers" / f"{filled.sheet}-{filled.rater}.json", filled.document)
        votes = votes_table(study, kept.values())
        with atomic(study.folder / "votes.parquet") as temporary:
            votes.to_parquet(temporary, index=False)
        print(f"{len(new)} new answer files, {len(kept)} in all, {len(votes)} votes")
        print(analyse_study(study.folder))
        _append(config, study)


def votes_table(study: Study, filled: Iterable[Filled]) -> pd.DataFrame:
    """One row a trial and rater, with the columns of ``COLUMNS``, sorted by sheet, rater and order shown."""
    import pandas as pd

    rows = []
    for sheet in sorted(filled, key=lambda f: (f.sheet, f.rater)):
        for answer in sheet.answers:
            trial = study.trials[sheet.sheet][answer["trial"]]
            left, right = _label(trial.left, study), _label(trial.right, study)
            winner = {"left": left, "right": right}.get(answer["choice"], answer["choice"])
            ids = (study.id, sheet.sheet, sheet.rater, trial.id, trial.item, trial.kind)
            rows.append((*ids, left, right, answer["choice"], winner, answer["response_ms"]))
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"response_ms": "int64"})


def result_rows(study: Study, analysis: dict[str, Any], run: dict[str, Any], label: str = "") -> list[dict[str, Any]]:
    """Rows of the results table, with the run of side A as ``run``; none for a number without votes behind it.

    Args:
        study: the study.
        analysis: as ``user_study.analysis.report.analyse`` returns it.
        run: header of the training run (``subset_size, train_seed, step``), or empty.
        label: see ``Import.label``.
    """
    config = study.config
    tail = f"_{label}" if label else ""
    common = {
        "run": study.names["a"],
        "dataset": config["dataset"],
        "condition": config["condition"],
        "subset_size": run.get("subset_size"),
        "train_seed": run.get("train_seed"),
        "step": run.get("step"),
        "split": "eval",
        "metric_version": METRIC_VERSION,
        "fingerprint": study.header["fingerprint"],
        "commit": code_version()["commit"],
    }
    numbers = ((name, analysis[name.removeprefix("study_")]) for name in METRICS)
    return [
        {
            **common,
            "metric": name + tail,
            "value": number["value"],
            "ci_low": number["ci_low"],
            "ci_high": number["ci_high"],
            "n": number["n"],
            "higher_is_better": None if name == "study_tie_rate" else True,  # a tie is neither good nor bad
        }
        for name, number in numbers
        if number is not None
    ]


def _label(side: str, study: Study) -> str:
    return study.names[side[0]] + (" (scrambled)" if side.endswith("*") else "")


def _files(paths: Iterable[Path], may_be_empty: bool = False) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        inside = sorted(path.glob("*.json")) if path.is_dir() else [] if may_be_empty else [path]
        if not inside and not may_be_empty:
            raise CnlabError(f"{path} holds no .json files")
        files += inside
    if not files and not may_be_empty:
        raise CnlabError("no answer files given")
    return files


def _read_all(files: Iterable[Path], study: Study) -> list[Filled]:
    return [read_answers(path, study) for path in files]


def _merge(kept: dict[tuple[str, str], Filled], found: Iterable[Filled]) -> list[Filled]:
    """Add ``found`` to ``kept`` and return those that were not in it."""
    new = []
    for filled in found:
        old = kept.get((filled.sheet, filled.rater))
        if old is None:
            kept[filled.sheet, filled.rater] = filled
            new.append(filled)
        elif old.seal != filled.seal:
            raise CnlabError(
                f"{filled.path}: rater {filled.rater} has other answers to {filled.sheet} in {old.path}; give each "
                "rater a code of their own, or decide which file counts and remove the other"
            )
    return new


def _refuse_clash(config: Import, study: Study) -> None:
    """Two studies of one run would take each other's place in the table, whose rows know no opponent."""
    from evaluation.results import read_results

    tail = f"_{config.label}" if config.label else ""
    table = read_results(config.results)
    own = table[(table["run"] == study.names["a"]) & (table["metric"].isin([name + tail for name in METRICS]))]
    own = own[own["dataset"] == study.config["dataset"]]
    if (own["fingerprint"] != study.header["fingerprint"]).any():
        raise CnlabError(
            f"{config.results} already has {METRICS[0]}{tail} of {study.names['a']} from another study; give "
            "this one a --label"
        )


def _append(config: Import, study: Study) -> None:
    from evaluation.results import append_rows

    summary = run_summary(config.runs, study.names["a"].split("/")[0])
    rows = result_rows(study, read_json(study.folder / "analysis.json"), summary, config.label)
    append_rows(config.results, rows)
    print(f"{len(rows)} rows written to {config.results}")
