"""The table of an experiment: one number a row, published as soon as a cell is finished."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.contract.errors import CnlabError
from pipeline.contract.files import atomic
from pipeline.contract.text import for_csv

if TYPE_CHECKING:
    import pandas as pd

TEXT, WHOLE, REAL = "string", "Int64", "Float64"
TYPES = {
    "experiment": TEXT, "cell": TEXT, "dataset": TEXT, "condition": TEXT, "subset_size": WHOLE, "steps": WHOLE,
    "batch": WHOLE, "fault": TEXT, "dose": REAL, "selection": TEXT, "variant": TEXT, "hint": TEXT, "init": TEXT,
    "schedule": TEXT, "train_seed": WHOLE, "order_seed": WHOLE, "scoring": TEXT, "step": WHOLE, "metric": TEXT,
    "metric_version": TEXT, "value": REAL, "ci_low": REAL, "ci_high": REAL, "n": WHOLE, "model": TEXT,
    "dataset_fingerprint": TEXT, "seconds": REAL, "plan": TEXT, "fingerprint": TEXT, "commit": TEXT,
}  # fmt: skip
COLUMNS = tuple(TYPES)
ORDER = ["train_seed", "order_seed", "cell", "scoring", "metric", "step"]


def as_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows with the columns, types and order of the table; empty text is null."""
    import pandas as pd

    table = pd.DataFrame([{name: row.get(name) for name in COLUMNS} for row in rows], columns=list(COLUMNS))
    table = table.astype(TYPES)
    text = [name for name, kind in TYPES.items() if kind == TEXT]
    table[text] = table[text].fillna("")
    return table.sort_values(ORDER, kind="stable", ignore_index=True)


def read_table(path: Path) -> pd.DataFrame:
    """A CSV or Parquet table; empty where there is none yet. Raises CnlabError for anything else."""
    import pandas as pd

    if not path.exists():
        return as_table([])
    try:
        table = pd.read_csv(path, keep_default_na=True) if path.suffix == ".csv" else pd.read_parquet(path)
        return as_table(records(table))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CnlabError(f"{path} is not an experiment's table ({error}); delete it or restore it from git") from error


def write_table(table: pd.DataFrame, path: Path) -> None:
    """``path`` (Parquet) and the same as CSV beside it, each atomically."""
    with atomic(path) as temporary:
        table.to_parquet(temporary, index=False)
    write_csv(table, path.with_suffix(".csv"))


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """The table for people and for git: numbers to six digits, text that starts no formula."""
    text = [name for name, kind in TYPES.items() if kind == TEXT]
    plain = table.assign(**{name: table[name].map(for_csv) for name in text})
    with atomic(path) as temporary:
        plain.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")


def published(folder: Path, fingerprints: set[str]) -> dict[str, list[dict[str, Any]]]:
    """Fingerprint -> rows of the cells that any published table holds: they need not be trained again."""
    cells: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.csv")):
        table = read_table(path)
        cells = {**by_cell(table[table["fingerprint"].isin(fingerprints)]), **cells}
    return cells


def by_cell(table: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """Fingerprint -> rows."""
    return {str(key): records(rows) for key, rows in table.groupby("fingerprint")}


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries, None for what is missing."""
    plain = table.astype(object).where(table.notna(), None)
    return [{str(name): value for name, value in row.items()} for row in plain.to_dict("records")]
