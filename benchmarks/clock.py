"""Times every optimizer step of any training program, ours or another's, by the same hook.

    python -m benchmarks.clock OUT.json SCRIPT.py ARGUMENT ...      # as `python SCRIPT.py ARGUMENT ...`
    python -m benchmarks.clock OUT.json -m MODULE ARGUMENT ...      # as `python -m MODULE ARGUMENT ...`

OUT.json afterwards: `seconds` from one step's end to the next's, on a CPU `cpu_seconds` of the process likewise,
and on a GPU its name and the peak of its memory.
"""

from __future__ import annotations

import json
import os
import runpy
import statistics
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

Reading = dict[str, Any]
WARM = 0.2  # share of the steps left out of every rate: allocators, autotuning, compilation


class Clock:
    """Marks the end of each optimizer step while it is entered; on a GPU with events, so that nothing waits."""

    def __init__(self, device: torch.device | None = None) -> None:
        """``device`` of the program; None: a GPU where there is one."""
        self.cuda = torch.cuda.is_available() if device is None else device.type == "cuda"
        self.marks: list[Any] = []

    def __enter__(self) -> Clock:
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        self._hook = register_optimizer_step_post_hook(self._record)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._hook.remove()

    def _record(self, *_: object) -> None:
        if not self.cuda:
            self.marks.append((time.perf_counter(), time.process_time()))
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self.marks.append(event)

    def reading(self) -> Reading:
        """``seconds``, one fewer than steps; on a GPU its name and, in bytes, peak ``allocated`` and ``reserved``."""
        pairs = list(zip(self.marks, self.marks[1:], strict=False))
        if not self.cuda:
            clock, cpu = ([b[i] - a[i] for a, b in pairs] for i in (0, 1))
            return {"seconds": clock, "cpu_seconds": cpu, "device": ""}
        torch.cuda.synchronize()
        return {
            "seconds": [a.elapsed_time(b) / 1000 for a, b in pairs],
            "device": torch.cuda.get_device_name(),
            "allocated": torch.cuda.max_memory_allocated(),
            "reserved": torch.cuda.max_memory_reserved(),
        }


def steady(reading: Reading) -> list[float]:
    """Seconds of the steps after the first fifth."""
    seconds: list[float] = reading["seconds"]
    return seconds[max(int(len(seconds) * WARM), 1) :]


def rate(reading: Reading, batch: int) -> float:
    """Images a second over the steady steps, waiting for data included: a mean, unlike the median of the steps."""
    return batch / statistics.fmean(steady(reading))


def main() -> None:
    """Run the program named on the command line and write its reading, also when it exits by itself."""
    out, *program = sys.argv[1:]
    module = program[0] == "-m"
    sys.argv = program[1:] if module else program
    sys.path.insert(0, str(Path.cwd() if module else Path(program[0]).parent))
    with Clock() as clock:
        try:
            if module:
                runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(sys.argv[0], run_name="__main__")
        finally:
            if os.environ.get("RANK", "0") == "0":  # of the processes that torchrun starts the first one writes
                Path(out).write_text(json.dumps(clock.reading()))


if __name__ == "__main__":
    main()
