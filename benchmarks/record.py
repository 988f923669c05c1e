"""One row a measurement in RESULTS.md: what, ratio or rate, host, date, commit, command."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from pipeline.contract.identity import code_version

RESULTS = Path(__file__).parent / "RESULTS.md"
HEAD = """# Benchmarks

Medians with quartiles of interleaved repeats in one run; ratios travel between hosts, absolute rates do not.

| what | value | host | date | commit | command |
|---|---|---|---|---|---|
"""


def interleaved(parts: dict[str, Callable[[], int]], repeats: int = 5) -> dict[str, list[float]]:
    """Items a second of each part, run in turn (A B A B ...) after one warm-up each."""
    rates: dict[str, list[float]] = {name: [] for name in parts}
    for run in parts.values():
        run()
    for _ in range(repeats):
        for name, run in parts.items():
            began = time.perf_counter()
            count = run()
            rates[name].append(count / (time.perf_counter() - began))
    return rates


def spread(values: list[float]) -> str:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.3g} ({low:.3g} ... {high:.3g})"


def record(what: str, value: str, device: str = "") -> None:
    """Append one row; ``device`` is a GPU's name."""
    if not RESULTS.exists():
        RESULTS.write_text(HEAD)
    host = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    if device:
        host = f"{device}, {host}"
    command = f"python -m {Path(sys.argv[0]).parent.name}.{Path(sys.argv[0]).stem}"
    row = f"| {what} | {value} | {host} | {datetime.now(UTC):%Y-%m-%d} | {code_version()['commit']} | `{command}` |\n"
    with RESULTS.open("a") as out:
        out.write(row)
    print(row, end="")
