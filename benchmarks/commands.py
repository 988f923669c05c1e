"""The two programs that are compared, each as a whole command under `benchmarks.clock` and from cold caches."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.clock import Reading

NEVER = "1000000"  # steps between checkpoints or validations


def run(program: list[str], out: Path, environment: dict[str, str], processes: int = 1) -> Reading:
    """Its reading (the first process's), with ``wall`` seconds; RuntimeError with its last lines if it fails."""
    quiet = {**os.environ, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", **environment}
    began = time.perf_counter()
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *launcher, "-m", "benchmarks.clock", str(out), *program]
    done = subprocess.run(command, env=quiet, capture_output=True, text=True)
    wall = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"{' '.join(program)} failed:\n{done.stderr[-4000:]}")
    reading: Reading = json.loads(out.read_text())
    return {**reading, "wall": wall}


def theirs(
    script: Path,
    model: str,
    init: Path,
    data: Path,
    scratch: Path,
    options: dict[str, Any],
    environment: dict[str, str],
) -> Reading:
    """The public script; ``options`` are further options of its command line, None for a switch."""
    _empty(scratch)
    options = {
        "pretrained_model_name_or_path": model, "controlnet_model_name_or_path": init, "train_data_dir": data,
        "cache_dir": scratch / "cache", "output_dir": scratch / "out", "image_column": "image",
        "conditioning_image_column": "conditioning_image", "caption_column": "text", "seed": 0,
        "checkpointing_steps": NEVER, **options,
    }  # fmt: skip
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value) if word is not None]
    return run([str(script), *words], scratch / "clock.json", environment)


def ours(
    init: Path,
    data: Path,
    scratch: Path,
    options: dict[str, Any],
    environment: dict[str, str],
    processes: int = 1,
) -> Reading:
    """``cnlab-train run`` with the tabletop prior, its latents encoded anew."""
    _empty(scratch)
    shutil.rmtree(data / ".cache", ignore_errors=True)
    options = {
        "dataset": data, "init": init, "out": scratch, "name": "run", "device": "cpu", "validate-every": NEVER,
        "save-every": NEVER, **options,
    }  # fmt: skip
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    watch = ["--watch.loss-samples", "1", "--watch.fidelity-samples", "0"]
    return run(["-m", "trainer.cli", "run", *words, *watch], scratch / "clock.json", environment, processes)


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
