"""The prior's own training set: tabletop renders in memory-mapped arrays, made once, resumable.

`images-*.npy` (N, S, S, 3) uint8, `shares-*.npy` (N, 8, 8, 7) uint8 and `captions-*.jsonl`, a line for each finished
block, so a killed run goes on where it stopped. Its seeds are kept apart from those of any dataset that users build.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.tabletop import render, sample_scene
from pipeline.tabletop.scene import SHAPES

TRAIN_SEED = 770_001  # no dataset uses seeds above 700,000 (pipeline.config refuses them)
HELD_OUT_SEED = 770_002
BLOCK = 250
CELLS = 8  # a side: one cell for each patch of tabletop-clip
CLASSES = 2 + len(SHAPES)  # wall, floor, then the shapes


class Renders(NamedTuple):
    """``images`` (N, S, S, 3) uint8 sRGB; ``captions``; ``shares`` (N, 8, 8, 7) uint8, 255ths of a cell a class."""

    images: NDArray[np.uint8]
    captions: list[str]
    shares: NDArray[np.uint8]


def class_shares(segment: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """How much of each of 8 x 8 cells belongs to wall, floor and each shape: (S, S) classes -> (8, 8, 7) 255ths."""
    cell = segment.shape[0] // CELLS
    blocks = segment.reshape(CELLS, cell, CELLS, cell)
    counts = (blocks[..., None] == np.arange(CLASSES)).mean((1, 3))
    return np.asarray(np.round(255 * counts), dtype=np.uint8)


def _fill(images_path: str, shares_path: str, seed: int, start: int, stop: int, size: int) -> tuple[int, list[str]]:
    images, shares = (np.lib.format.open_memmap(p, mode="r+") for p in (images_path, shares_path))
    captions = []
    for index in range(start, stop):
        scene = sample_scene(seed, index)
        made = render(scene, size)
        images[index], shares[index] = made.image, class_shares(made.segment)
        captions.append(scene.caption)
    images.flush()
    shares.flush()
    return start, captions


def renders(folder: Path, seed: int, count: int, size: int = 128, workers: int = 2) -> Renders:
    """Make (or finish, or open) ``count`` renders of world ``seed`` below ``folder``; the arrays are read-only."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{seed}-{count}-{size}"
    path, ledger = folder / f"images-{name}.npy", folder / f"captions-{name}.jsonl"
    shares = folder / f"shares-{name}.npy"
    if not (path.exists() and shares.exists()):
        np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, size, size, 3)).flush()
        np.lib.format.open_memmap(shares, mode="w+", dtype=np.uint8, shape=(count, CELLS, CELLS, CLASSES)).flush()
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
            jobs = [pool.submit(_fill, str(path), str(shares), seed, s, min(s + BLOCK, count), size) for s in todo]
            for job in tqdm(as_completed(jobs), total=len(jobs), desc="rendering", unit="block"):
                start, captions = job.result()
                done[start] = captions
                out.write("\n" + json.dumps({"start": start, "captions": captions}))
                out.flush()
    captions = [c for s in sorted(done) for c in done[s]]
    return Renders(np.load(path, mmap_mode="r"), captions, np.load(shares, mmap_mode="r"))
