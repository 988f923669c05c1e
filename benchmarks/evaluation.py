"""Generation against the plain pipeline called per image, and a whole evaluation against another checkout of this one.

    python -m benchmarks.evaluation                                  # generation alone
    python -m benchmarks.evaluation --checkout OTHER --run runs/ID --dataset data/NAME

In turns (A B A B ...): of generation the CPU time of one thread, which other programs disturb less than the clock; of
the evaluation the time of the whole command of each checkout on all cores, at its own defaults, start-up included. The
run must be one that both can read.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import tyro

from benchmarks.record import record, spread
from evaluation.sampling import Painter, make_recipe, seed_of
from pipeline.tabletop import render, sample_scene

COUNT, SIZE = 8, 128


def main(
    repeats: int = 3,
    images: int = 128,
    checkout: Path | None = None,
    run: Path | None = None,
    dataset: Path | None = None,
) -> None:
    """Record ratios of CPU seconds."""
    torch.set_num_threads(1)
    if checkout is None:
        _generation(repeats)
        return
    if run is None or dataset is None:
        raise SystemExit("--checkout needs --run and --dataset that both checkouts can read")
    here, there = [], []
    for _ in range(repeats):
        there.append(_command(checkout, run, dataset, images))
        here.append(_command(Path.cwd(), run, dataset, images))
    what = f"evaluation of a run, {images} samples, whole command: time at {_commit(checkout)} over here"
    record(what, _ratios([wall for wall, _ in there], [wall for wall, _ in here]))
    record("the same in CPU time of all processes", _ratios([cpu for _, cpu in there], [cpu for _, cpu in here]))
    record("the same, s here", spread([wall for wall, _ in here]))


def _generation(repeats: int) -> None:
    from diffusers import ControlNetModel

    from trainer.nets.base import model_folder
    from trainer.nets.models import load_pipeline

    model = model_folder("tabletop")
    captions = [sample_scene(0, index).caption for index in range(COUNT)]
    maps = np.stack([render(sample_scene(0, index), SIZE, 1).image for index in range(COUNT)])
    with tempfile.TemporaryDirectory() as folder:
        ControlNetModel.from_unet(load_pipeline(model, None, torch.float32).unet).save_pretrained(folder)
        recipe = make_recipe("tabletop", {})
        ours = Painter(model, [folder], recipe, "cpu")
        plain = load_pipeline(model, Path(folder), torch.float32)
        plain.scheduler = type(ours.pipe.scheduler).from_config(plain.scheduler.config)
        plain.set_progress_bar_config(disable=True)
        ours.pipe.set_progress_bar_config(disable=True)

        def by_block() -> None:
            ours(captions, [maps], [seed_of(str(index), 0) for index in range(COUNT)], SIZE)

        def one_by_one() -> None:
            for index in range(COUNT):
                hint = torch.from_numpy(maps[index : index + 1]).permute(0, 3, 1, 2) / 255
                generator = torch.Generator().manual_seed(seed_of(str(index), 0))
                plain(
                    captions[index], hint, height=SIZE, width=SIZE, num_inference_steps=recipe.steps,
                    guidance_scale=recipe.guidance, generator=generator, output_type="np",
                )  # fmt: skip

        theirs, blocks = [], []
        for _ in range(repeats):
            theirs.append(_seconds(one_by_one))
            blocks.append(_seconds(by_block))
    what = f"generation, tabletop, {SIZE} px, 12 steps, one thread: CPU time of the plain pipeline"
    record(f"{what} called per image over blocks of 8", _ratios(theirs, blocks))
    record("the same, CPU-s an image in blocks of 8", spread([seconds / COUNT for seconds in blocks]))


def _seconds(call: object) -> float:
    assert callable(call)
    began = time.process_time()
    call()
    return time.process_time() - began


def _command(checkout: Path, run: Path, dataset: Path, images: int) -> tuple[float, float]:
    """Seconds of one evaluation from nothing, and CPU seconds of all its processes together."""
    results = Path(tempfile.mkdtemp())
    environment = {**os.environ, "PYTHONPATH": str(checkout), "TQDM_DISABLE": "1"}
    options = ["--run", str(run), "--dataset", str(dataset), "--results", str(results), "--images", str(images)]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    # the folder of the checkout comes first on the path, so that its packages are the ones that are run
    subprocess.run(
        [sys.executable, "-m", "evaluation.cli", *options],
        cwd=checkout,
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    shutil.rmtree(results)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _commit(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "rev-parse", "--short=8", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _ratios(first: list[float], second: list[float]) -> str:
    ratios = [a / b for a, b in zip(first, second, strict=True)]
    return f"{ratios[0]:.3g} (one pair)" if len(ratios) < 2 else f"{spread(ratios)}, {len(ratios)} pairs"


if __name__ == "__main__":
    tyro.cli(main)
