"""What must not happen to a build: kills, full disks, folders in use. Counts are in the assertions."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

import pipeline
from pipeline.build.run import build
from pipeline.config import DatasetConfig
from pipeline.contract.errors import CnlabError
from pipeline.contract.files import lock_folder
from pipeline.contract.identity import sha256_file

# 20 of each take minutes; docs/log.md has the record of such a run
PARENT_KILLS = int(os.environ.get("CNLAB_PARENT_KILLS", "6"))
WORKER_KILLS = int(os.environ.get("CNLAB_WORKER_KILLS", "2"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:.*port.*already in use:UserWarning"),
]


PAUSE = 1.5  # seconds between kills of workers: long enough for a new one to begin a block


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    """Its Dask workers: forked from a server that is its child."""
    found = []
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if child.ppid() != process.pid and "multiprocessing.forkserver" in " ".join(child.cmdline()):
                found.append(child)
    return found


def sums(folder: Path) -> dict[str, str]:
    return {p.name: sha256_file(p) for p in sorted(folder.glob("*.parquet"))}


def test_kills_of_the_build_each_resumed_to_the_same_bytes(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("kill_driver.py")), str(tmp_path), str(PARENT_KILLS), "3"]
    here = {  # a script does not see the working folder
        **os.environ,
        "PYTHONPATH": str(Path(pipeline.__file__).parents[1]),
    }
    found = subprocess.run(command, capture_output=True, text=True, env=here)
    assert found.returncode == 0, found.stderr[-2000:]
    report = json.loads(found.stdout.splitlines()[-1])
    kills = report["kills"]
    assert len(kills) == PARENT_KILLS
    assert sum(k["equal"] for k in kills) == PARENT_KILLS
    assert all(k["whole"] for k in kills)
    assert not any(k["left"] for k in kills)
    assert len({k["shards"] for k in kills}) >= min(3, PARENT_KILLS // 3)  # they came at different moments
    assert report["shards"] >= 8


def test_killed_workers_are_replaced_and_the_bytes_are_the_same(tmp_path: Path) -> None:
    def config(out: Path, workers: int) -> DatasetConfig:
        blocks = max(8, 3 * WORKER_KILLS)
        return DatasetConfig(
            size=str(64 * blocks), eval_size=64, block=64, image_size=64, out=out, name="set", workers=workers
        )

    build(config(tmp_path / "clean", 0))
    killed: list[int] = []
    over = threading.Event()

    def strike() -> None:
        me, rng = psutil.Process(), __import__("random").Random(5)
        while len(killed) < WORKER_KILLS and not over.is_set():
            workers = workers_of(me)
            if len(workers) >= 2 and list((tmp_path / "hit" / "set").glob("*.parquet")):
                victim = rng.choice(workers)
                victim.send_signal(signal.SIGKILL)
                killed.append(victim.pid)
                time.sleep(PAUSE)
            time.sleep(0.05)

    killer = threading.Thread(target=strike)
    killer.start()
    try:
        build(config(tmp_path / "hit", 2))
    finally:
        over.set()
        killer.join()
    assert len(killed) == WORKER_KILLS
    assert sums(tmp_path / "hit" / "set") == sums(tmp_path / "clean" / "set")


def test_a_killed_build_takes_its_workers_with_it(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "pipeline.cli", "build", "--out", str(tmp_path), "--name", "set", "--size", "192",
        "--eval-size", "16", "--image-size", "64", "--block", "16", "--workers", "2",
    ]  # fmt: skip
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    parent = psutil.Process(started.pid)
    until = time.monotonic() + 300  # a loaded machine is slow
    while len(list((tmp_path / "set").glob("*.parquet"))) < 2 and time.monotonic() < until:
        time.sleep(0.02)
    workers = workers_of(parent)
    family = parent.children(recursive=True)
    started.kill()
    started.wait()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert len(workers) == 2
    assert not alive
    assert not (tmp_path / "set" / "dataset.json").exists()
    assert subprocess.run(command, capture_output=True).returncode == 0
    build(
        DatasetConfig(size="192", eval_size=16, image_size=64, block=16, out=tmp_path / "clean", name="set", workers=0)
    )
    assert sums(tmp_path / "set") == sums(tmp_path / "clean" / "set")


def run(out: Path, *options: str, limit: int = 0, workers: int = 0) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-m", "pipeline.cli", "build", "--out", str(out), "--name", "set", "--size", "40",
        "--eval-size", "8", "--image-size", "64", "--workers", str(workers), *options,
    ]  # fmt: skip

    def cap() -> None:
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(command, capture_output=True, text=True, preexec_fn=cap)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_full_disk_is_one_line_and_nothing_is_marked_done(workers: int, tmp_path: Path) -> None:
    found = run(tmp_path, limit=20_000, workers=workers)  # no file may grow beyond it: what a full disk does to a write
    assert found.returncode == 2
    last = found.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert str(tmp_path / "set") in last
    assert "Traceback" not in found.stderr
    assert "Warning" not in found.stderr
    assert not (tmp_path / "set" / "dataset.json").exists()
    assert not list((tmp_path / "set").glob("*.parquet")) + list((tmp_path / "set").glob(".*.part"))
    assert run(tmp_path).returncode == 0  # space again: the same command finishes


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, which nobody can write to")
def test_a_folder_that_cannot_be_written_is_one_line() -> None:
    found = run(Path("/proc/cnlab"))
    assert found.returncode == 2
    assert found.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in found.stderr


def test_a_second_build_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    config = DatasetConfig(size="8", eval_size=2, image_size=32, out=tmp_path, name="set", workers=0)
    with lock_folder(config.folder), pytest.raises(CnlabError, match="in use by another process"):
        build(config)
    assert not (config.folder / "dataset.json").exists()
    build(config)
