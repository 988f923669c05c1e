"""Rows of the results table: what a study found, clustered by raters and items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evaluation.results import append_rows
from pipeline.contract.files import read_json
from pipeline.contract.identity import code_version
from trainer.run_folder import read_summary
from user_study.config import Import
from user_study.study_folder import ANALYSIS, Study, part_of

if TYPE_CHECKING:
    import pandas as pd

VERSION = "2"  # 1: exact interval, as if votes were independent; the clustered one was study_win_rate_two_way
INTERVAL = "raters and items"
RENAMED = {"study_win_rate": "study_win_rate_if_independent", "study_win_rate_two_way": "study_win_rate"}


def write_rows(config: Import, study: Study, simulated: bool) -> None:
    """Write a study's rows, in the place of its earlier ones; older tables' names are migrated on the way."""
    folder = part_of(study.folder, simulated)
    rows = result_rows(config, study, read_json(folder / ANALYSIS), simulated)
    metrics = {row["metric"] for row in rows}

    def revise(table: pd.DataFrame) -> pd.DataFrame:
        table = migrate(table)
        own = (table["fingerprint"] == study.header["fingerprint"]) & table["metric"].isin(metrics)
        rest: pd.DataFrame = table.loc[~own.fillna(False)]
        return rest

    append_rows(config.results, rows, revise)
    print(f"{len(rows)} rows written to {config.results}")


def migrate(table: pd.DataFrame) -> pd.DataFrame:
    """Version 1 called the exact interval ``study_win_rate``; the clustered one takes its name."""
    old = (table["metric_version"] == "1") & table["metric"].isin(RENAMED)
    return table.assign(metric=table["metric"].where(~old.fillna(False), table["metric"].map(RENAMED)))


def result_rows(config: Import, study: Study, analysis: dict[str, Any], simulated: bool) -> list[dict[str, Any]]:
    """Rows of an analysis; none for a number without an interval behind it."""
    tail = "_quality" if study.config.get("criterion") == "quality" else ""
    tail += f"_{config.label}" if config.label else ""
    tail += "_simulated" if simulated else ""
    rows = []
    for entry in analysis["numbers"]:
        if entry["value"] is None or entry["ci_low"] is None:
            continue
        run = read_summary(config.runs / entry["subject"].split("/")[0])
        rows.append(
            {
                "run": entry["subject"],
                "against": entry.get("against"),
                "dataset": study.config["dataset"],
                "condition": study.config["condition"],
                **{name: run.get(name) for name in ("subset_size", "train_seed", "step")},
                "split": "eval",
                "metric": f"study_{entry['name']}{tail}",
                "metric_version": VERSION,
                **{name: entry[name] for name in ("value", "ci_low", "ci_high", "n")},
                "higher_is_better": None if entry["name"] in ("tie_rate", "accuracy") else True,
                "fingerprint": study.header["fingerprint"],
                "commit": code_version()["commit"],
                "interval": INTERVAL,
            }
        )
    return rows
