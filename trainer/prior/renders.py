"""The prior's own training set: tabletop renders in one memory-mapped array, made once, resumable.

`images.npy` (N, S, S, 3) uint8 and `captions.json`; `done` lists the finished blocks, so a killed run goes on
where it stopped. Its seeds are kept apart from those of any dataset that users build.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.tabletop import render, sample_scene

TRAIN_SEED = 770_001  # no dataset uses seeds above 700,000 (pipeline.config refuses them)
HELD_OUT_SEED = 770_002
BLOCK = 250


def _fill(path: str, seed: int, start: int, stop: int, size: int) -> tuple[int, list[str]]:
    images = np.lib.format.open_memmap(path, mode="r+")
    captions = []
    for index in range(start, stop):
        scene = sample_scene(seed, index)
        images[index] = render(scene, size).image
        captions.append(scene.caption)
    images.flush()
    return start, captions


def renders(
    folder: Path, seed: int, count: int, size: int = 128, workers: int = 2
) -> tuple[NDArray[np.uint8], list[str]]:
    """Make (or finish, or open) ``count`` renders of world ``seed`` below ``folder``.

    Returns the images, a read-only map (count, size, size, 3) uint8 sRGB, and their captions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, ledger = folder / f"images-{seed}-{count}-{size}.npy", folder / f"captions-{seed}-{count}-{size}.jsonl"
    if not path.exists():
        np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, size, size, 3)).flush()
        ledger.unlink(missing_ok=True)
    done: dict[int, list[str]] = {}
    if ledger.exists():
        for line in ledger.read_text().splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:  # the line that a kill cut short
                continue
            done[entry["start"]] = entry["captions"]
    todo = [s for s in range(0, count, BLOCK) if s not in done]
    if todo:
        with ProcessPoolExecutor(workers) as pool, ledger.open("a") as out:
            jobs = [pool.submit(_fill, str(path), seed, s, min(s + BLOCK, count), size) for s in todo]
            for job in tqdm(as_completed(jobs), total=len(jobs), desc="rendering", unit="block"):
                start, captions = job.result()
                done[start] = captions
                out.write("\n" + json.dumps({"start": start, "captions": captions}))
                out.flush()
    images = np.load(path, mmap_mode="r")
    return images, [c for s in sorted(done) for c in done[s]]
