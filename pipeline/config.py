"""What a dataset build can be told, and what that makes of its fingerprint."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.io import CnlabError, fingerprint, format_size, parse_size

FORMAT = 1  # of the folder's layout; raised when old folders can no longer be read
EVAL_SHARE = {"tabletop": 1 / 32}  # a world is large; a folder of photographs is not
RESERVED_SEEDS = 700_000  # from here on: worlds the shipped prior was trained and tested on


@dataclass(frozen=True)
class DatasetConfig:
    """Raw images to (image, caption, condition map) triplets."""

    source: str = "tabletop"  # tabletop, or folder:PATH
    size: str = "2k"  # training samples; accepts 50k
    condition: tuple[str, ...] = ("canny",)  # maps to make; the first one is conditioning_image
    name: str = ""  # folder below out; empty: made from the options
    seed: int = 1  # of the rendered world and of every random map parameter
    eval_size: int = 256  # held-out samples, the same for every size
    image_size: int = 128  # pixels, square
    out: Path = Path("data")
    workers: int = 2  # local Dask processes; 0: no cluster, work in this process
    scheduler: str = ""  # address of a running Dask scheduler, e.g. tcp://host:8786; empty: a local cluster
    block: int = 256  # candidates a task and a shard
    eval_share: float = 0.0  # share of all keys kept for evaluation; 0: 1/32 of tabletop, a tenth of a folder
    min_side: int = 64  # pixels; smaller images are rejected as too_small
    max_aspect: float = 3.0  # longer side over shorter; above it: aspect
    min_caption: int = 3  # characters; below it: caption_empty
    max_caption: int = 2000  # characters; above it: caption_too_long
    min_map_share: float = 0.001  # share of lit pixels in an edge map; below it: map_empty
    max_map_share: float = 0.5  # above it: map_saturated
    dry_run: bool = False  # print the plan and stop
    resolved_size: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check every value; raises CnlabError."""
        object.__setattr__(self, "resolved_size", parse_size(self.size))
        if not 0 <= self.seed < RESERVED_SEEDS:
            raise CnlabError(f"seed {self.seed} is outside 0 ... {RESERVED_SEEDS - 1}; the rest is kept for the prior")
        if self.eval_size < 1 or self.workers < 0 or self.block < 1:
            raise CnlabError("eval-size and block must be at least 1, workers at least 0")
        if self.image_size < 32 or self.image_size % 8:
            raise CnlabError(f"image-size {self.image_size} must be a multiple of 8 and at least 32")
        if not self.condition or len(set(self.condition)) != len(self.condition):
            raise CnlabError("condition needs at least one name, each only once")
        if self.eval_share == 0:
            object.__setattr__(self, "eval_share", EVAL_SHARE.get(self.source.partition(":")[0], 0.1))
        if not 0 < self.eval_share < 1:
            raise CnlabError(f"eval-share {self.eval_share} must lie between 0 and 1")

    @property
    def folder(self) -> Path:
        """Where the dataset goes."""
        base = self.source if self.source == "tabletop" else Path(self.source.partition(":")[2]).name or "folder"
        made = f"{base}-{'-'.join(self.condition)}-{format_size(self.resolved_size)}-s{self.seed}"
        return self.out / (self.name or made)

    def identity(self, source_fingerprint: str) -> dict[str, Any]:
        """Everything that decides the dataset's content, and nothing else (not workers, not paths)."""
        names = ("seed", "eval_size", "image_size", "block", "eval_share", "min_side", "max_aspect", "min_caption")
        more = ("max_caption", "min_map_share", "max_map_share")
        return {
            "format": FORMAT,
            "source": self.source.partition(":")[0],
            "source_fingerprint": source_fingerprint,
            "size": self.resolved_size,
            "conditions": list(self.condition),
            **{k: getattr(self, k) for k in (*names, *more)},
        }

    def fingerprint(self, source_fingerprint: str) -> str:
        """sha256 of `identity`."""
        return fingerprint(self.identity(source_fingerprint))
