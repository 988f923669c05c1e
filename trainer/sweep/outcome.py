"""What a sweep found: summary, figure, report."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.contract.errors import CnlabError
from pipeline.contract.files import atomic, write_json
from pipeline.contract.identity import code_version
from trainer.run_folder import SUMMARY
from trainer.sweep import words
from trainer.sweep.figure import draw_curves
from trainer.sweep.fit import estimate
from trainer.sweep.folder import Sweep
from trainer.sweep.stats import convergences, differences, final, main_metric, size_rows

REPORT, CURVE = "report.md", "curve.png"


def finish(sweep: Sweep) -> None:
    """Table, figure and report of what there is; ``summary.json`` only when every run is complete."""
    complete = sweep.finished
    for run in complete:  # a kill may have come between the run's end and the record's
        sweep.record(run)["status"] = "complete"
    failed = [r for r in sweep.header["runs"] if r["status"] == "failed"]
    if complete:
        table = sweep.write_table()
        summary = _summary(sweep, table, failed)
        draw_curves(table, summary, sweep.folder / CURVE)
        with atomic(sweep.folder / REPORT) as temporary:
            temporary.write_text(words.report(summary))
        sweep.header["cost"] = summary["cost"]
        sweep.save()
        print(words.size_table(summary), *map(words.estimate_text, summary["estimates"]), sep="\n", flush=True)
        if not failed:
            write_json(sweep.folder / SUMMARY, _plain(summary))
    if failed:
        named = "; ".join(f"{r['run']}: {r['reason']}" for r in failed)
        raise CnlabError(f"{len(failed)} of {len(sweep.runs)} runs failed ({named}); the same command tries them again")


def _summary(sweep: Sweep, table: pd.DataFrame, failed: list[dict[str, Any]]) -> dict[str, Any]:
    config, metric = sweep.config, main_metric(table)
    arms = config.arms
    curves = {arm: final(table, arm, metric) for arm in arms}
    return {
        "sweep": sweep.folder.name,
        "fingerprint": sweep.header["fingerprint"],
        "dataset": sweep.triplets.header["name"],
        "condition": sweep.triplets.condition,
        "model_name": Path(config.model).name,
        "seeds": config.seeds,
        "metric": metric,
        "sizes": size_rows(table, arms),
        "convergence": convergences(table, arms),
        "differences": differences(table, arms),
        "estimates": [estimate(values, arm, metric, config.target).as_dict() for arm, values in curves.items()],
        "cost": _cost(sweep.header["runs"]),
        "failed": failed,
        **code_version(),
    }


def _cost(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Forecast against fact, over the runs that were trained in one go."""
    whole = [r for r in records if r.get("seconds") and r.get("forecast_seconds")]
    sums = {k: sum(r[k] for r in whole) for k in ("forecast_seconds", "seconds", "forecast_bytes", "bytes")}
    ratio = sums["seconds"] / sums["forecast_seconds"] if whole else None
    return {"runs": len(whole), **sums, "ratio": ratio}


def _plain(value: Any) -> Any:
    """With None for numbers that are none: JSON has no NaN."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
