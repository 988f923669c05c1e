"""What an evaluation reads: the run under test and the pictures it is tested on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.images import Pictures, stack_images
from pipeline.io import CnlabError, read_json


@dataclass(frozen=True)
class Run:
    """A finished training run: `summary.json` and the config beside it."""

    folder: Path
    config: dict[str, Any]
    summary: dict[str, Any]

    @property
    def id(self) -> str:
        """Name of the run."""
        return self.folder.name

    @property
    def checkpoint(self) -> Path:
        """Folder of the trained ControlNet."""
        return self.folder / str(self.summary["checkpoint"])

    @property
    def model(self) -> str:
        """Path or hub name of the prior."""
        model = self.config["model"]
        return str(model["path"] if isinstance(model, dict) else model)

    @property
    def model_mark(self) -> Any:
        """What identifies the prior wherever it lies: its recorded sha256, else its name."""
        model = self.config["model"]
        facts = {k: v for k, v in model.items() if k != "path"} if isinstance(model, dict) else {}
        return facts or self.model

    @property
    def dataset(self) -> Path:
        """Folder of the dataset it was trained on."""
        return Path(str(self.config["dataset"]["path"]))

    def fact(self, name: str) -> Any:
        """A field of the summary, for the columns of a result row."""
        return self.summary.get(name)


def open_run(folder: Path) -> Run:
    """Read a run; one that is absent, unfinished or damaged raises CnlabError."""
    folder = folder.resolve()
    if not (folder / "summary.json").is_file():
        raise CnlabError(f"{folder} is not a finished run (no summary.json); run make train first")
    header = read_json(folder / "config.json")
    config = {**header.get("config", {}), **header}  # options, and above them the records of what they resolved to
    summary = read_json(folder / "summary.json")
    for name, where, wanted in (
        ("config.json", config, ("model", "dataset")),
        ("summary.json", summary, ("checkpoint", "fingerprint", "condition", "step")),
    ):
        missing = [key for key in wanted if key not in where]
        if missing:
            raise CnlabError(f"{folder / name} lacks {', '.join(missing)}; train this run again")
    run = Run(folder, config, summary)
    if not run.checkpoint.is_dir():
        raise CnlabError(f"{run.checkpoint} does not exist; train run {run.id} again")
    return run


@dataclass(frozen=True)
class Samples:
    """N samples of a split in rank order, decoded. ``params`` are those each map was drawn with."""

    name: str  # of the dataset
    fingerprint: str  # of the dataset
    condition: str
    keys: tuple[str, ...]
    texts: tuple[str, ...]
    images: Pictures  # (N, S, S, 3) uint8
    maps: Pictures  # (N, S, S, 3) uint8
    params: tuple[dict[str, Any], ...]
    weights: str = ""  # of the condition's extractor, where it has any: a folder or hub name

    def __len__(self) -> int:
        return len(self.keys)


def load_samples(folder: Path, condition: str, count: int, split: str = "eval") -> Samples:
    """The first ``count`` samples of a split, or all where there are fewer."""
    from pipeline.dataset import Triplets
    from pipeline.shards import decode_image

    dataset = Triplets(folder)
    have = sum(int(s["rows"]) for s in dataset.header["shards"] if s["split"] == split)
    if condition not in dataset.header["conditions"]:
        there = ", ".join(dataset.header["conditions"])
        raise CnlabError(f"{folder} has no condition {condition!r} (it has {there}); choose another --dataset")
    if not have:
        raise CnlabError(f"{folder} has no {split} samples")
    columns = ["key", "text", "image", condition, f"{condition}_params"]
    rows = dataset.table(split, columns, min(count, have)).to_pylist()
    where = f"{folder}, {split} split"
    return Samples(
        str(dataset.header["name"]),
        dataset.fingerprint,
        condition,
        tuple(row["key"] for row in rows),
        tuple(row["text"] for row in rows),
        stack_images([decode_image(row["image"]["bytes"]) for row in rows], where),
        stack_images([decode_image(row[condition]["bytes"]) for row in rows], f"{where}, {condition} maps"),
        tuple(json.loads(row[f"{condition}_params"]) for row in rows),
    )


def seed_of(key: str, group: int) -> int:
    """Seed of an image's noise: 63 bits of sha256(key, group), so it is the same in every arm and every run."""
    digest = hashlib.sha256(f"{key}\0{group}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def file_of(key: str, group: int) -> str:
    """KEY-GROUP.png, KEY being 16 hex digits of sha256(key)."""
    return f"{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}-{group}.png"


def derangement(keys: tuple[str, ...]) -> NDArray[np.intp]:
    """Index of the sample whose map each sample gets in the shuffled arm: never its own.

    One cycle through all samples in the order of a hash, hence a function of the set of keys alone.
    """
    if len(keys) < 2:
        raise CnlabError("the shuffled arm needs at least two samples")
    order = sorted(range(len(keys)), key=lambda i: hashlib.sha256(f"shuffle\0{keys[i]}".encode()).digest())
    other = np.empty(len(keys), dtype=np.intp)
    other[order] = np.roll(order, -1)
    return other
