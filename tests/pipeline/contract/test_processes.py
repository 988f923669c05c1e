from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pipeline.contract.processes import process_pool

PARENT = """
import os, sys, time
from pipeline.contract.processes import process_pool

if __name__ == "__main__":
    with process_pool(2) as pool:
        print(*{pool.submit(os.getpid).result() for _ in range(2)}, flush=True)
        pool.submit(time.sleep, 600).result()
"""


@pytest.mark.parametrize("signal", ["kill", "terminate"])
def test_processes_of_a_pool_end_when_their_parent_is_killed(signal: str, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(Path.cwd())}
    )
    assert parent.stdout is not None
    children = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
    assert children
    getattr(parent, signal)()
    parent.wait()
    parent.stdout.close()
    _, alive = psutil.wait_procs(children, timeout=60)
    for child in alive:
        child.kill()
    assert not alive


def test_a_pool_that_is_not_killed_returns_results() -> None:
    with process_pool(1) as pool:
        assert pool.submit(pow, 2, 5).result() == 32
