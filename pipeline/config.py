"""What a dataset build can be told, and what that makes of its fingerprint."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from pipeline.captions import GIVEN_CAPTIONS
from pipeline.contract.dataset import FORMAT
from pipeline.contract.errors import CnlabError
from pipeline.contract.identity import fingerprint
from pipeline.contract.models import weights_identity
from pipeline.contract.sizes import format_size, parse_size
from pipeline.screen import duplicates
from pipeline.screen.limits import PRESETS, resolve_limits
from pipeline.sources.columns import ReadConfig

RENDERED = ("tabletop", "fill50k")  # sources that are drawn here, by rule
EVAL_SHARE = {"tabletop": 1 / 32}  # a world is large; a folder of photographs is not
RESERVED_SEEDS = 700_000  # from here on: worlds the shipped prior was trained and tested on


@dataclass(frozen=True)
class DatasetConfig:
    """Raw images to (image, caption, condition map) triplets."""

    source: str = "tabletop"  # tabletop, fill50k, or folder:PATH, webdataset:URL, parquet:PATH, hub:NAME
    size: str = "2k"  # training samples; accepts 50k
    condition: tuple[str, ...] = ("canny",)  # maps to make; the first one is conditioning_image
    captions: tuple[str, ...] = GIVEN_CAPTIONS  # all are kept, the first that says anything becomes text
    name: str = ""  # folder below out; empty: made from the options
    seed: int = 1  # of the rendered world and of every random map parameter
    eval_size: int = 256  # held-out samples, the same for every size
    image_size: int = 128  # pixels, square
    image_format: Literal["auto", "png", "jpeg"] = "auto"  # jpeg: quality 95, 4:4:4; auto: png for renders, else jpeg
    out: Path = Path("data")
    workers: int = 2  # local Dask processes; 0: no cluster, work in this process
    scheduler: str = ""  # address of a running Dask scheduler, e.g. tcp://host:8786; empty: a local cluster
    block: int = 256  # candidates a task and a shard
    eval_share: float = 0.0  # share of all keys kept for evaluation; 0: 1/32 of tabletop, a tenth of anything else
    screen: str = "auto"  # thresholds: off, render, default, strict; auto: render for renders, else default
    threshold: dict[str, float] = field(default_factory=dict)  # single thresholds over those of screen: NAME VALUE ...
    weights: dict[str, str] = field(default_factory=dict)  # NAME PATH-or-hub-name of hed, blip, clip, nsfw ...
    duplicates: Literal["auto", "on", "off"] = "auto"  # reject exact and near copies; auto: off for renders alone
    decontaminate: str = ""  # another source (e.g. folder:PATH): nothing like its images is taken
    safe_rate: float = 0.75  # share of soft maps that are quantised so that they cannot leak (ControlNet 1.1)
    license: str = "auto"  # of the images, for the card; auto: this package's for renders, else unknown
    dry_run: bool = False  # print the plan and stop
    read: Annotated[ReadConfig, tyro.conf.arg(name="")] = field(default_factory=ReadConfig)
    resolved_size: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check every value and resolve the automatic ones; raises CnlabError."""
        rendered = self.kind in RENDERED
        for name, value in {
            "resolved_size": parse_size(self.size),
            "eval_share": self.eval_share or EVAL_SHARE.get(self.kind, 0.1),
            "image_format": ("png" if rendered else "jpeg") if self.image_format == "auto" else self.image_format,
            "screen": ("render" if rendered else "default") if self.screen == "auto" else self.screen,
            "license": ("apache-2.0" if rendered else "unknown") if self.license == "auto" else self.license,
            "duplicates": ("off" if rendered else "on") if self.duplicates == "auto" else self.duplicates,
        }.items():
            object.__setattr__(self, name, value)
        _ = self.limits
        self._check_numbers()
        for names, what in ((self.condition, "condition"), (self.captions, "captions")):
            if not names or len(set(names)) != len(names):
                raise CnlabError(f"{what} needs at least one name, each only once")

    def _check_numbers(self) -> None:
        if not 0 <= self.seed < RESERVED_SEEDS:
            raise CnlabError(f"seed {self.seed} is outside 0 ... {RESERVED_SEEDS - 1}; the rest is kept for the prior")
        if self.eval_size < 1 or self.workers < 0 or self.block < 1:
            raise CnlabError("eval-size and block must be at least 1, workers at least 0")
        if self.image_size < 32 or self.image_size % 8:
            raise CnlabError(f"image-size {self.image_size} must be a multiple of 8 and at least 32")
        if not 0 < self.eval_share < 1:
            raise CnlabError(f"eval-share {self.eval_share} must lie between 0 and 1")
        if not re.fullmatch(r"[\w.+() -]{1,80}", self.license):
            raise CnlabError(f"license {self.license!r} must be a short name such as cc-by-4.0")
        if not 0 <= self.safe_rate <= 1:
            raise CnlabError(f"safe-rate {self.safe_rate} must lie between 0 and 1")

    @property
    def kind(self) -> str:
        """The source's kind: tabletop, folder, ..."""
        return self.source.partition(":")[0]

    @property
    def limits(self) -> dict[str, float]:
        """Every screening threshold by name. Raises CnlabError for unknown ones."""
        if self.screen not in PRESETS:
            raise CnlabError(f"unknown screen {self.screen!r}; there are {', '.join(PRESETS)}")
        return resolve_limits(self.screen, self.threshold)

    @property
    def folder(self) -> Path:
        """Where the dataset goes."""
        where = self.source.partition(":")[2].rstrip("/*")
        base = self.source if self.source in RENDERED else Path(where).name.replace(":", "-") or self.kind
        made = f"{base}-{'-'.join(self.condition)}-{format_size(self.resolved_size)}-s{self.seed}"
        return self.out / (self.name or made)

    def identity(self, source_fingerprint: str, outside: str = "") -> dict[str, Any]:
        """Everything that decides the dataset's content, and nothing else (not workers, not paths).

        ``outside`` is the fingerprint of the source to decontaminate against.
        """
        names = ("seed", "eval_size", "image_size", "image_format", "block", "eval_share", "duplicates", "safe_rate")
        return {
            "format": FORMAT,
            "source": self.kind,
            "source_fingerprint": source_fingerprint,
            "decontaminate": outside,
            "size": self.resolved_size,
            "conditions": list(self.condition),
            "captions": list(self.captions),
            "screen": self.screen,
            "limits": self.limits,
            "weights": {name: weights_identity(where) for name, where in sorted(self.weights.items())},
            **{k: getattr(self, k) for k in names},
            **({"duplicate_rules": duplicates.RULES} if self.duplicates == "on" else {}),
        }

    def fingerprint(self, source_fingerprint: str, outside: str = "") -> str:
        """sha256 of `identity`."""
        return fingerprint(self.identity(source_fingerprint, outside))
