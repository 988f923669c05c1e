"""The results table: one number a row, kept as Parquet and, for people, as CSV."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from pipeline.contract.errors import CnlabError
from pipeline.contract.files import atomic
from pipeline.contract.text import for_csv

if TYPE_CHECKING:
    import pandas as pd

#: Columns in the order of docs/formats.md, with pandas' nullable types: a missing integer stays an integer column.
TYPES = {
    "run": "string",
    "dataset": "string",
    "condition": "string",
    "subset_size": "Int64",
    "train_seed": "Int64",
    "gen_seed": "Int64",
    "step": "Int64",
    "split": "string",
    "metric": "string",
    "metric_version": "string",
    "value": "Float64",
    "ci_low": "Float64",
    "ci_high": "Float64",
    "n": "Int64",
    "higher_is_better": "boolean",
    "fingerprint": "string",
    "commit": "string",
    "arm": "string",
    "model": "string",
    "recipe": "string",
    "variant": "string",
    "fault": "string",
    "dose": "Float64",
    "selection": "string",
    "against": "string",
    "interval": "string",
}
COLUMNS = tuple(TYPES)
#: A row replaces an older one that agrees in these.
IDENTITY = (
    "run", "dataset", "condition", "arm", "model", "recipe", "against", "metric", "metric_version", "step", "gen_seed",
    "split", "n",
)  # fmt: skip
REQUIRED = ("run", "dataset", "metric", "split", "value", "n")
#: Columns of tables written before arms, models and recipes had their own: such a table is read and filled.
FIRST = COLUMNS[: COLUMNS.index("arm")]
LOCK_SECONDS = 60  # a rewrite takes far less, so waiting is better than failing


def read_results(results_dir: Path) -> pd.DataFrame:
    """The table of ``results_dir`` with the columns and types of ``TYPES``; empty when there is none yet."""
    import pandas as pd

    path = results_dir / "results.parquet"
    if not path.exists():
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in TYPES.items()})
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise CnlabError(f"{path} cannot be read ({error}); delete it and evaluate again") from error
    missing = [name for name in FIRST if name not in frame.columns]
    if missing:
        raise CnlabError(f"{path} lacks the columns {', '.join(missing)}; delete it and evaluate again")
    absent = [name for name in COLUMNS if name not in frame.columns]
    if absent:
        frame = _migrate(results_dir, frame, absent)
    return frame[list(COLUMNS)].astype(TYPES)


def _migrate(results_dir: Path, frame: pd.DataFrame, absent: list[str]) -> pd.DataFrame:
    """Fill the columns that an older table lacks: the arm from the subject, model and recipe from its pictures."""
    from evaluation.generations import describe_generated
    from evaluation.subjects import Subject

    filled: dict[str, dict[str, str]] = {}
    described = describe_generated(results_dir)
    for run in frame["run"].dropna().unique():
        try:
            arm = Subject.parse(str(run)).arm
        except CnlabError:  # written by other means
            continue
        filled[run] = {"arm": arm, **described.get(str(run), {})}
    columns = {name: frame["run"].map(lambda run, name=name: filled.get(run, {}).get(name)) for name in absent}
    return frame.assign(**columns)


def append_rows(
    results_dir: Path, rows: list[dict[str, Any]], revise: Callable[[pd.DataFrame], pd.DataFrame] | None = None
) -> None:
    """Add ``rows``, replacing those of the same identity, and rewrite ``results.parquet`` and ``results.csv``.

    ``revise`` gets the older table and returns what of it stays, for rows that a new one replaces by other rules.

    Both files are replaced atomically, one process at a time, in an order that depends on their content alone.
    """
    import pandas as pd

    for row in rows:
        _check(row)
    results_dir.mkdir(parents=True, exist_ok=True)
    lock = FileLock(results_dir / ".table.lock", timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout as error:
        raise CnlabError(f"{results_dir} has been in use for {LOCK_SECONDS} s by another process") from error
    try:
        new = pd.DataFrame([{name: row.get(name) for name in COLUMNS} for row in rows], columns=list(COLUMNS))
        old = read_results(results_dir)
        old = old if revise is None else revise(old).astype(TYPES)
        frame = pd.concat([old, new.astype(TYPES)], ignore_index=True) if rows else old
        frame = frame.drop_duplicates(list(IDENTITY), keep="last")
        frame = frame.sort_values(list(IDENTITY), kind="stable", na_position="first", ignore_index=True)
        with atomic(results_dir / "results.parquet") as temporary:
            frame.to_parquet(temporary, index=False)
        with atomic(results_dir / "results.csv") as temporary:
            # RFC 4180 line ends, which also make the writer quote a stray CR or LF in a cell.
            _tame(frame).to_csv(temporary, index=False, lineterminator="\r\n")
    finally:
        lock.release()


def _check(row: dict[str, Any]) -> None:
    name = f"result row {row.get('run')}/{row.get('metric')}"
    unknown = sorted(set(row) - set(COLUMNS))
    if unknown:
        raise CnlabError(f"{name}: unknown columns {', '.join(unknown)}")
    missing = [column for column in REQUIRED if row.get(column) is None]
    if missing:
        raise CnlabError(f"{name}: missing {', '.join(missing)}")
    if not math.isfinite(float(row["value"])):
        raise CnlabError(f"{name}: its value is {row['value']}, which is no result")


def _tame(frame: pd.DataFrame) -> pd.DataFrame:
    """Text that a spreadsheet would run as a formula gets a leading quote; numbers are left alone."""
    text = [name for name, kind in TYPES.items() if kind == "string"]
    return frame.assign(**{name: frame[name].map(for_csv, na_action="ignore") for name in text})
