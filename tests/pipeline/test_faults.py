"""What must not happen to a build: kills, full disks, folders in use. Counts are in the assertions."""

from __future__ import annotations

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

from pipeline.build import build
from pipeline.config import DatasetConfig
from pipeline.io import CnlabError, lock_folder, sha256_file

WORKER_KILLS = int(os.environ.get("CNLAB_WORKER_KILLS", "2"))  # 20 takes minutes: a killed worker starts in seconds
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:.*port.*already in use:UserWarning")


def sums(folder: Path) -> dict[str, str]:
    return {p.name: sha256_file(p) for p in sorted(folder.glob("*.parquet"))}


def test_twenty_kills_of_the_build_each_resumed_to_the_same_bytes(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("fault_driver.py")), str(tmp_path), "20", "3"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-2000:]
    report = json.loads(found.stdout.splitlines()[-1])
    kills = report["kills"]
    assert len(kills) == 20
    assert sum(k["equal"] for k in kills) == 20
    assert all(k["whole"] for k in kills)
    assert not any(k["left"] for k in kills)
    assert len({k["shards"] for k in kills}) >= 3  # they came at different moments
    assert report["shards"] >= 8


def test_killed_workers_are_replaced_and_the_bytes_are_the_same(tmp_path: Path) -> None:
    def config(out: Path, workers: int) -> DatasetConfig:
        blocks = max(8, 3 * WORKER_KILLS)
        return DatasetConfig(
            size=str(64 * blocks), eval_size=64, block=64, image_size=96, out=out, name="set", workers=workers
        )

    build(config(tmp_path / "clean", 0))
    killed: list[int] = []
    over = threading.Event()

    def strike() -> None:
        me, rng = psutil.Process(), __import__("random").Random(5)
        while len(killed) < WORKER_KILLS and not over.is_set():
            workers = [p for p in me.children(recursive=True) if "multiprocessing.spawn" in " ".join(p.cmdline())]
            if len(workers) >= 2 and list((tmp_path / "hit" / "set").glob("*.parquet")):
                victim = rng.choice(workers)
                victim.send_signal(signal.SIGKILL)
                killed.append(victim.pid)
                time.sleep(2.5)
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


def run(out: Path, *options: str, limit: int = 0) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-m", "pipeline.cli", "build", "--out", str(out), "--name", "set", "--size", "40",
        "--eval-size", "8", "--image-size", "64", "--workers", "0", *options,
    ]  # fmt: skip

    def cap() -> None:
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(command, capture_output=True, text=True, preexec_fn=cap)


def test_a_full_disk_is_one_line_and_nothing_is_marked_done(tmp_path: Path) -> None:
    found = run(tmp_path, limit=20_000)  # no file may grow beyond it: what a full disk does to a write
    assert found.returncode == 2
    assert found.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in found.stderr
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
