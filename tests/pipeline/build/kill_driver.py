"""Forks one child a kill from a process that has everything imported already, so that 20 kills take seconds.

python tests/pipeline/build/kill_driver.py OUT POINTS SEED: prints a JSON list of what each kill left behind.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from pipeline.build.pool import PRELOAD
from pipeline.build.run import build
from pipeline.config import DatasetConfig
from pipeline.contract.identity import sha256_file


def config(out: Path) -> DatasetConfig:
    return DatasetConfig(
        size="96", eval_size=16, block=16, image_size=32, out=out, name="set", workers=0,
        condition=("canny", "depth"), duplicates="on", threshold={"duplicate_bits": 60},
    )  # fmt: skip


def child(out: Path) -> int:
    """Build in a forked child; returns its process id."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        build(config(out))
        os._exit(0)
    return pid


def state(folder: Path) -> dict[str, str]:
    return {p.name: sha256_file(p) for p in sorted(folder.glob("*.parquet"))}


def _wait_for(folder: Path, shards: int) -> None:
    """Until the build has written so many shards, or has ended."""
    while len(list(folder.glob("[et]*.parquet"))) < shards and not (folder / "dataset.json").exists():
        time.sleep(0.002)


def main() -> None:
    for name in PRELOAD:
        importlib.import_module(name)
    out, points, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    began = time.monotonic()
    os.waitpid(child(out / "clean"), 0)
    took = time.monotonic() - began
    wanted = state(out / "clean" / "set")
    draw, report = random.Random(seed), []
    for point in range(points):
        place = out / f"kill-{point}"
        pid = child(place)
        if point % 3:  # while blocks are built, else at any time
            _wait_for(place / "set", 1 + 3 * point % 8)
            time.sleep(draw.uniform(0, 0.1))
        else:
            time.sleep(draw.uniform(0, took))
        os.killpg(pid, signal.SIGKILL) if point % 2 else os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        sealed, shards = (place / "set" / "dataset.json").exists(), len(list((place / "set").glob("t*.parquet")))
        whole = not sealed or state(place / "set") == wanted
        os.waitpid(child(place), 0)
        report.append({"sealed": sealed, "shards": shards, "whole": whole, "equal": state(place / "set") == wanted})
        left = [p.name for p in (place / "set").glob(".*.part")]
        report[-1]["left"] = left
        shutil.rmtree(place)
    print(json.dumps({"shards": len(wanted), "kills": report}))


if __name__ == "__main__":
    main()
