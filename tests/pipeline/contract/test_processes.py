from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline.contract.errors import CnlabError
from pipeline.contract.processes import Commands, process_pool

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


def test_a_pool_whose_block_is_stopped_does_not_finish_what_is_queued() -> None:
    with pytest.raises(KeyboardInterrupt), process_pool(1) as pool:
        pid = pool.submit(os.getpid).result()
        child, queued = psutil.Process(pid), [pool.submit(time.sleep, 600) for _ in range(5)]
        raise KeyboardInterrupt
    assert not child.is_running()
    assert all(future.done() for future in queued)


TERMINATED = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pipeline.contract.errors import run_cli
from pipeline.contract.processes import Commands

def main():
    commands = Commands()
    with ThreadPoolExecutor(1) as threads:
        child = "import time; print(1, flush=True); time.sleep(600)"
        waiting = threads.submit(commands.run, [sys.executable, "-c", child])
        try:
            waiting.result()
        finally:
            commands.stop()

run_cli(main)
"""


def test_sigterm_ends_a_command_line_in_one_line_and_what_it_started(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(TERMINATED)
    parent = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    assert parent.stdout is not None
    assert parent.stdout.readline() == "1\n"
    children = psutil.Process(parent.pid).children()
    assert len(children) == 1
    parent.terminate()
    _, said = parent.communicate(timeout=60)
    assert (said, parent.returncode) == ("stopped; the same command goes on from here\n", 143)
    assert not psutil.wait_procs(children, timeout=60)[1]


def test_stopped_commands_start_no_more() -> None:
    commands = Commands()
    assert commands.run([sys.executable, "-c", "raise SystemExit(3)"]) == 3
    commands.stop()
    with pytest.raises(CnlabError, match="stopped"):
        commands.run([sys.executable, "-c", ""])
