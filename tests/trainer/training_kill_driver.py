"""Forks one child a kill from a process that has everything imported already, so that 20 kills take seconds.

python tests/trainer/training_kill_driver.py DATASET MODEL OUT KILLS SEED: prints a JSON report of what was left behind.
Every second kill waits for a checkpoint that is being written.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import pandas as pd
import torch

from trainer.config import HintOptions, TrainConfig, Training, WatchOptions
from trainer.nets.control import load_control
from trainer.run import run_training
from trainer.state.checkpoint import latest_checkpoint, list_checkpoints, load_tensors, read_state

STEPS = 60


def config(dataset: str, model: str, out: Path) -> Training:
    return TrainConfig(
        dataset=Path(dataset), model=model, out=out, name="run", steps=STEPS, batch=3, lr=1e-3, save_every=2,
        validate_every=10, device="cpu", hint=HintOptions((8, 8, 8, 8)),
        watch=WatchOptions(loss_samples=4, fidelity_samples=0, log_every=1),
    ).resolved()  # fmt: skip


def child(training: Training) -> int:
    """Train in a forked child; returns its process id."""
    pid = os.fork()
    if pid == 0:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        run_training(training)
        os._exit(0)
    return pid


def saving(checkpoints: Path) -> bool:
    return any(checkpoints.glob(".step-*.part"))


def strike(pid: int, folder: Path, delay: float, during_save: bool) -> bool:
    """Kill after ``delay`` seconds, or in the first save after them; False when the child had ended before."""
    time.sleep(delay)
    while during_save and not saving(folder / "checkpoints") and os.waitpid(pid, os.WNOHANG) == (0, 0):
        pass
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        return False
    return not (folder / "summary.json").exists()


def outcome(folder: Path) -> tuple[list[tuple[int, float, float]], dict[str, torch.Tensor], pd.DataFrame]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    newest = list_checkpoints(folder / "checkpoints")[-1]
    weights = load_tensors(newest / "diffusion_pytorch_model.safetensors")
    table = pd.read_parquet(folder / "validation.parquet")
    return [(r["step"], r["loss"], r["grad_norm"]) for r in rows], weights, table


def main() -> None:
    torch.set_num_threads(1)
    dataset, model, out, kills, seed = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
    whole = config(dataset, model, out / "whole")
    began = time.monotonic()
    os.waitpid(child(whole), 0)
    took = time.monotonic() - began
    expected = outcome(whole.folder)
    draw, report, again = random.Random(seed), [], 0
    hit = config(dataset, model, out / f"hit-{again}")
    while len(report) < kills:
        if not strike(child(hit), hit.folder, draw.uniform(0, 0.6 * took), during_save=len(report) % 2 == 1):
            again += 1  # it had finished: begin another
            hit = config(dataset, model, out / f"hit-{again}")
            continue
        half_saved = saving(hit.folder / "checkpoints")
        newest = latest_checkpoint(hit.folder / "checkpoints")
        if newest is not None:
            load_control(newest)
        report.append({"step": read_state(newest)["step"] if newest else 0, "half_saved": half_saved})
    os.waitpid(child(hit), 0)
    found = outcome(hit.folder)
    equal = {
        "losses": found[0] == expected[0],
        "weights": all(torch.equal(value, found[1][name]) for name, value in expected[1].items()),
        "validation": found[2].equals(expected[2]),
    }
    print(json.dumps({"kills": report, "equal": equal, "runs": again + 1, "steps": len(found[0])}))


if __name__ == "__main__":
    main()
