"""In place of python for the stages of an experiment's cells: ``fake_stage.py -m MODULE ARGUMENTS``, in milliseconds.

A run of n images and seed s reaches 0.5 - 0.5 / log2(2 n) + 0.01 s. It takes ``FAKE_SECONDS``; ``FAKE_LOG`` lists what
was run, ``FAKE_BROKEN`` names a run that fails.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout


def stage(module: str, arguments: list[str]) -> None:
    option = dict(pairwise(arguments))
    folder = Path(option["--out"]) / option["--name"]
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"error: {folder} is in use by another process; wait for it or choose another name")
        raise SystemExit(75) from None
    if folder.name.startswith(os.environ.get("FAKE_BROKEN", "none")):
        print("loading\nerror: the loss is no number")
        raise SystemExit(2)
    if (folder / "summary.json").exists():
        return
    with Path(os.environ["FAKE_LOG"]).open("a") as out:
        out.write(f"{folder.name}\n")
    if module == "pipeline.cli":
        for percent in range(0, 100, 10):
            print(f"build: {percent}%", end="\r", flush=True)
            time.sleep(float(os.environ.get("FAKE_BUILD_SECONDS", "0")) / 10)
        (folder / "dataset.json").write_text("{}")
        return
    time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
    train(folder, option)


def train(folder: Path, option: dict[str, str]) -> None:
    size, seed, steps = int(option["--subset"]), int(option["--seed"]), int(option["--steps"])
    value = 0.5 - 0.5 / math.log2(2 * size) + 0.01 * seed
    rows = [
        {"step": step, "images": 16 * step, "metric": "fidelity", "arm": "gap", "value": value * step / steps,
         "ci_low": 0.0, "ci_high": 1.0, "n": 64}
        for step in (0, steps)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), folder / "validation.parquet")
    (folder / "convergence.json").write_text(json.dumps({"step": None, "interval": None, "points": 2}))
    (folder / "checkpoints" / "step-1").mkdir(parents=True)
    (folder / "samples").mkdir()
    (folder / "config.json").write_text(json.dumps({"model": "tabletop", "dataset": {"path": option["--dataset"]}}))
    lines = [{"step": s, "images": 16 * s, "images_per_second": 8.0, "looking_seconds": 10.0} for s in range(1, 6)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = {
        "checkpoint": "checkpoints/step-1", "fingerprint": "f", "condition": "canny", "step": steps,
        "dataset_fingerprint": "d",
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))


if __name__ == "__main__":
    stage(sys.argv[2], sys.argv[3:])
