"""The prior's own training set: tabletop renders in memory-mapped arrays, made once, resumable.

`images-*.npy` (N, S, S, 3) uint8, `shares-*.npy` (N, 8, 8, 7) uint8, `objects-*.npy` (N, 16, 16) uint8 and
`captions-*.jsonl`, a line for each finished block, so a killed run goes on where it stopped. Its seeds are kept apart
from those of any dataset that users build.
"""

from __future__ import annotations

import json
from concurrent.futures import as_completed
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.contract.processes import process_pool
from pipeline.tabletop import render, sample_scene
from pipeline.tabletop.scene import COLORS, SHAPES, Solid

TRAIN_SEED = 770_001  # no dataset uses seeds above 700,000 (pipeline.config refuses them)
HELD_OUT_SEED = 770_002
JUDGE_SEED = 770_003  # what tabletop-judge is trained on: no picture that the prior or its CLIP has seen
BLOCK = 250
CELLS = 8  # a side: one cell for each patch of tabletop-clip
CLASSES = 2 + len(SHAPES)  # wall, floor, then the shapes
OBJECT_CELLS = 16  # a side: one cell for each patch of tabletop-judge
OBJECT_CLASSES = 2 + len(SHAPES) * len(COLORS)  # wall, floor, then every shape in every colour


class Renders(NamedTuple):
    """Pictures, captions and what stands where, in equal order.

    images    (N, S, S, 3) uint8 sRGB
    captions  N texts
    shares    (N, 8, 8, 7) uint8, 255ths of a cell that belong to wall, floor and each shape
    objects   (N, 16, 16) uint8, the object class that covers most of a cell; see `object_classes`
    """

    images: NDArray[np.uint8]
    captions: list[str]
    shares: NDArray[np.uint8]
    objects: NDArray[np.uint8]


def class_shares(segment: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """How much of each of 8 x 8 cells belongs to wall, floor and each shape: (S, S) classes -> (8, 8, 7) 255ths."""
    cell = segment.shape[0] // CELLS
    blocks = segment.reshape(CELLS, cell, CELLS, cell)
    counts = (blocks[..., None] == np.arange(CLASSES)).mean((1, 3))
    return np.asarray(np.round(255 * counts), dtype=np.uint8)


def object_classes(instance: NDArray[np.uint8], solids: tuple[Solid, ...]) -> NDArray[np.uint8]:
    """Which object covers most of each of 16 x 16 cells: (S, S) instances -> (16, 16) uint8 in [0, OBJECT_CLASSES).

    0 wall, 1 floor, 2 + 8 * shape + colour, with the indices of SHAPES and COLORS.
    """
    cell = instance.shape[0] // OBJECT_CELLS
    blocks = instance.reshape(OBJECT_CELLS, cell, OBJECT_CELLS, cell)
    largest = (blocks[..., None] == np.arange(2 + len(solids))).mean((1, 3)).argmax(-1)
    names = list(COLORS)
    classes = [0, 1, *(2 + len(names) * SHAPES.index(t.shape) + names.index(t.color) for t in solids)]
    return np.array(classes, dtype=np.uint8)[largest]  # type: ignore[no-any-return]


def _fill(paths: tuple[Path, ...], seed: int, start: int, stop: int, size: int) -> tuple[int, list[str]]:
    arrays = [np.lib.format.open_memmap(p, mode="r+") for p in paths]
    captions = []
    for index in range(start, stop):
        scene = sample_scene(seed, index)
        picture = render(scene, size)
        values = picture.image, class_shares(picture.segment), object_classes(picture.instance, scene.solids)
        for array, value in zip(arrays, values, strict=True):
            array[index] = value
        captions.append(scene.caption)
    for array in arrays:
        array.flush()
    return start, captions


def renders(folder: Path, seed: int, count: int, size: int = 128, workers: int = 2) -> Renders:
    """Make (or finish, or open) ``count`` renders of world ``seed`` below ``folder``; the arrays are read-only."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{seed}-{count}-{size}"
    ledger = folder / f"captions-{name}.jsonl"
    shapes = {
        "images": (size, size, 3),
        "shares": (CELLS, CELLS, CLASSES),
        "objects": (OBJECT_CELLS, OBJECT_CELLS),
    }
    paths = tuple(folder / f"{kind}-{name}.npy" for kind in shapes)
    if not all(path.exists() for path in paths):
        for path, shape in zip(paths, shapes.values(), strict=True):
            np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, *shape)).flush()
        ledger.unlink(missing_ok=True)
    blocks = _finished_blocks(ledger)
    todo = [s for s in range(0, count, BLOCK) if s not in blocks]
    if todo:
        with process_pool(workers) as pool, ledger.open("a") as out:
            pending = [pool.submit(_fill, paths, seed, s, min(s + BLOCK, count), size) for s in todo]
            for future in tqdm(as_completed(pending), total=len(pending), desc="rendering", unit="block"):
                start, captions = future.result()
                blocks[start] = captions
                out.write("\n" + json.dumps({"start": start, "captions": captions}))
                out.flush()
    images, shares, objects = (np.load(path, mmap_mode="r") for path in paths)
    return Renders(images, [c for s in sorted(blocks) for c in blocks[s]], shares, objects)


def _finished_blocks(ledger: Path) -> dict[int, list[str]]:
    """The captions of each block that the ledger names, by the block's first index."""
    blocks: dict[int, list[str]] = {}
    if ledger.exists():
        for line in ledger.read_text().splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:  # the line that a kill cut short
                continue
            blocks[entry["start"]] = entry["captions"]
    return blocks
