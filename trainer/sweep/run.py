"""A sweep under way: forecast, train what is missing, write down what comes."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from pipeline.contract.dataset import Triplets
from pipeline.contract.errors import CnlabError
from pipeline.contract.files import lock_folder
from trainer.run import run_training
from trainer.sweep import words
from trainer.sweep.cost import Costs, Forecast, forecast, measure, steps_done
from trainer.sweep.folder import Sweep
from trainer.sweep.outcome import finish
from trainer.sweep.plan import PlannedRun, SweepConfig, plan


def run_sweep(config: SweepConfig) -> Path:
    """Forecast, train, resume or find a sweep; returns its folder. ``summary.json`` is written last.

    A run that fails with CnlabError is recorded and the others go on; at the end CnlabError says which failed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise CnlabError("a sweep trains its runs one after another on one device; start it without torchrun")
    triplets = Triplets(config.dataset)
    sweep = Sweep(config, triplets, plan(config, triplets.condition, triplets.count("train")))
    if config.dry_run:
        _ = sweep.header  # refuses a foreign folder
        _forecast(sweep)
        return sweep.folder
    with lock_folder(sweep.folder):
        sweep.save()
        found = _forecast(sweep)
        if found and not _agreed(config):
            raise CnlabError("nothing was started; answer y, or give --yes")
        _train(sweep, found)
        finish(sweep)
    return sweep.folder


def _forecast(sweep: Sweep) -> list[Forecast]:
    """What is left to train and what it will cost, said and written down; [] when all is complete."""
    complete = sweep.finished
    left = [run for run in sweep.runs if run not in complete]
    if not left:
        print(f"{sweep.folder}: all {len(complete)} runs are complete", flush=True)
        return []
    print("measuring a few steps, a validation and a checkpoint ...", flush=True)
    costs = measure(max(left, key=lambda run: run.size), sweep.triplets)
    found = forecast(left, costs)
    print(words.forecast_text(sweep.folder.name, found, costs, len(complete)), flush=True)
    if not sweep.config.dry_run:
        _keep(sweep, found, costs)
    return found


def _keep(sweep: Sweep, found: list[Forecast], costs: Costs) -> None:
    seconds = sum(f.seconds for f in found)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() and sweep.config.device != "cpu" else "cpu"
    total = {"device": device, "threads": torch.get_num_threads(), "runs": len(found), "forecast_seconds": seconds}
    sweep.header["costs"].append({**costs.as_dict(), **total})
    for f in found:
        record = sweep.record(f.run)
        if "forecast_seconds" not in record:  # of the whole run, before its first step
            record |= {"forecast_seconds": f.seconds, "forecast_bytes": f.bytes}
    sweep.save()


def _agreed(config: SweepConfig) -> bool:
    """Asked where there is somebody to ask."""
    if config.yes or not sys.stdin.isatty():
        return True
    return input("start? [y/N] ").strip().lower() in ("y", "yes")


def _train(sweep: Sweep, found: list[Forecast]) -> None:
    spent = planned = 0.0
    left = sum(f.seconds for f in found)
    for place, f in enumerate(found, 1):
        record, left = sweep.record(f.run), left - f.seconds
        seconds = _one(sweep, f.run, record)
        if record["status"] != "complete":
            continue
        spent, planned = spent + seconds, planned + f.seconds
        rest = left * spent / planned
        ahead = (
            f"about {words.duration(rest)} left, done at {words.clock(rest)}" if place < len(found) else "the last one"
        )
        took = f"{words.duration(seconds)}, forecast {words.duration(f.seconds)}"
        print(f"[{place}/{len(found)}] {f.run.name}: {took}; {ahead}", flush=True)


def _one(sweep: Sweep, run: PlannedRun, record: dict[str, Any]) -> float:
    """Train a run and write down how it ended; returns the seconds it took."""
    whole = steps_done(run.config.folder) == 0
    record |= {"status": "started", "seconds": None}
    record.pop("reason", None)
    sweep.save()
    began = time.perf_counter()
    try:
        run_training(run.config)
    except CnlabError as error:
        record |= {"status": "failed", "reason": str(error)}
        print(f"{run.name} failed: {error}", file=sys.stderr, flush=True)
    else:
        seconds = time.perf_counter() - began if whole else None  # a continued run says nothing of the forecast
        size = sum(p.stat().st_size for p in run.config.folder.rglob("*") if p.is_file())
        record |= {"status": "complete", "seconds": seconds, "bytes": size}
        sweep.write_table()
    sweep.save()
    return time.perf_counter() - began
