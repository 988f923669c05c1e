"""Options of the dataset commands; the plan that a build's resolve to, and its identity."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from pipeline.captions import GIVEN_CAPTIONS
from pipeline.contract.dataset import FORMAT
from pipeline.contract.errors import CnlabError
from pipeline.contract.models import weights_identity
from pipeline.contract.names import RENDERED, check_name, dataset_name
from pipeline.contract.options import check_finite
from pipeline.contract.schema import VARIANT_COLUMNS, shard_schema
from pipeline.contract.sizes import parse_size
from pipeline.screen import duplicates, limits
from pipeline.screen.limits import LATER, OFF, resolve_limits
from pipeline.sources import columns
from pipeline.sources.columns import ReadConfig

EVAL_SHARE = {"tabletop": 1 / 32}  # a world is large; a folder of photographs is not
#: Columns of every dataset, which a map must not take the place of. A map of unsaid kind is conditioning_image.
RESERVED_COLUMNS = {*shard_schema(()).names, *VARIANT_COLUMNS} - {"conditioning_image"}
CONDITION_NAME = re.compile(r"[\w-]{1,60}")
RESERVED_SEEDS = 700_000  # from here on: worlds the shipped prior was trained and tested on
#: Fields of `BuildPlan` that decide a dataset's content under their own names.
DECIDING = ("seed", "eval_size", "image_size", "image_format", "block", "eval_share", "duplicates", "safe_rate")


@dataclass(frozen=True)
class Settings:
    """Options that a build takes as they are."""

    source: str = "tabletop"  # tabletop, fill50k, or folder:PATH, webdataset:URL, parquet:PATH, hub:NAME
    condition: tuple[str, ...] = ("canny",)  # maps of each sample; the first one is conditioning_image
    captions: tuple[str, ...] = GIVEN_CAPTIONS  # all are kept, the first that says anything becomes text
    seed: int = 1  # of the rendered world and of every random map parameter
    eval_size: int = 256  # held-out samples, the same for every size
    image_size: int = 128  # pixels, square
    workers: int = 2  # local Dask processes; 0: no cluster, work in this process
    scheduler: str = ""  # address of a running Dask scheduler, e.g. tcp://host:8786; empty: a local cluster
    block: int = 256  # candidates a task and a shard
    weights: dict[str, str] = field(default_factory=dict)  # NAME PATH-or-hub-name of hed, blip, clip, nsfw ...
    decontaminate: str = ""  # another source (e.g. folder:PATH): nothing like its images is taken
    safe_rate: float = 0.75  # share of soft maps that are quantised so that they cannot leak (ControlNet 1.1)
    read: Annotated[ReadConfig, tyro.conf.OmitArgPrefixes] = field(default_factory=ReadConfig)

    @property
    def kind(self) -> str:
        """The source's kind: tabletop, folder, ..."""
        return self.source.partition(":")[0]


@dataclass(frozen=True)
class DatasetConfig(Settings):
    """Raw images to (image, caption, condition map) triplets."""

    size: str = "2k"  # training samples; accepts 50k
    name: str = ""  # folder below out; empty: made from the options
    out: Path = Path("data")
    image_format: Literal["auto", "png", "jpeg"] = "auto"  # jpeg: quality 95, 4:4:4; auto: png for renders, else jpeg
    eval_share: float = 0.0  # share of all keys kept for evaluation; 0: 1/32 of tabletop, a tenth of anything else
    screen: str = "auto"  # thresholds: off, render, default, strict; auto: render for renders, else default
    threshold: dict[str, float] = field(default_factory=dict)  # single thresholds over those of screen: NAME VALUE ...
    duplicates: Literal["auto", "on", "off"] = "auto"  # reject exact and near copies; auto: off for renders alone
    license: str = "auto"  # of the images, for the card; auto: this package's for renders, else unknown
    dry_run: bool = False  # print the plan and stop

    @property
    def folder(self) -> Path:
        """Where the dataset goes. Raises CnlabError for a name that is no folder there."""
        check_name(self.name)
        return self.out / (self.name or dataset_name(self.source, self.condition, self.size, self.seed))

    def explicit(self) -> DatasetConfig:
        """The same options with the value of each automatic one."""
        rendered = self.kind in RENDERED
        return replace(
            self,
            eval_share=self.eval_share or EVAL_SHARE.get(self.kind, 0.1),
            image_format=("png" if rendered else "jpeg") if self.image_format == "auto" else self.image_format,
            screen=("render" if rendered else "default") if self.screen == "auto" else self.screen,
            license=("apache-2.0" if rendered else "unknown") if self.license == "auto" else self.license,
            duplicates=("off" if rendered else "on") if self.duplicates == "auto" else self.duplicates,
        )

    def resolve(self) -> BuildPlan:
        """Check every option and fill in the automatic ones. Raises CnlabError."""
        check_finite(self)
        options = self.explicit()
        # thresholds that are younger than tabletop's identity are off for it unless they are asked for
        later = {name: OFF[name] for name in LATER} if self.kind == "tabletop" else {}
        plan = BuildPlan(
            **{f.name: getattr(options, f.name) for f in fields(Settings)},
            size=parse_size(options.size),
            folder=options.folder,
            image_format="png" if options.image_format == "png" else "jpeg",
            eval_share=options.eval_share,
            screen=options.screen,
            limits=resolve_limits(options.screen, {**later, **options.threshold}),
            duplicates="on" if options.duplicates == "on" else "off",
            license=options.license,
        )
        plan.check()
        return plan


@dataclass(frozen=True, kw_only=True)
class BuildPlan(Settings):
    """A dataset to be built: `DatasetConfig`, resolved."""

    size: int
    folder: Path
    image_format: Literal["png", "jpeg"]
    eval_share: float
    screen: str
    limits: dict[str, float]
    duplicates: Literal["on", "off"]
    license: str

    def check(self) -> None:
        """Raise CnlabError for the first value that cannot be."""
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
        if self.decontaminate and self.duplicates == "off":
            raise CnlabError("decontaminate needs duplicates on; give --duplicates on")
        for names, option in ((self.condition, "condition"), (self.captions, "captions")):
            if not names or len(set(names)) != len(names):
                raise CnlabError(f"{option} needs at least one name, each only once")
        check_condition_names(self.condition)

    def identity(self, source_fingerprint: str, outside: str = "") -> dict[str, Any]:
        """Everything that decides the dataset's content, and nothing else (not workers, not paths).

        ``outside`` is the fingerprint of the source to decontaminate against.
        """
        rules: dict[str, Any] = {
            "sources": columns.RULES,
            "screens": limits.RULES,
            "copies": duplicates.RULES,
            "read": asdict(self.read),
            **({"reject_figures": 1} if self.kind not in RENDERED else {}),
        }
        return {
            "format": FORMAT,
            "source": self.kind,
            "source_fingerprint": source_fingerprint,
            "decontaminate": outside,
            "size": self.size,
            "conditions": list(self.condition),
            "captions": list(self.captions),
            "screen": self.screen,
            "limits": {name: v for name, v in self.limits.items() if name not in LATER or v != OFF[name]},
            "weights": {name: weights_identity(path) for name, path in sorted(self.weights.items())},
            **{name: getattr(self, name) for name in DECIDING},
            **({} if self.kind == "tabletop" else {"rules": rules}),
        }


def check_condition_names(names: tuple[str, ...]) -> None:
    """Raise CnlabError for a name that no map can have: it becomes a column, and part of file names."""
    for name in names:
        if name.lower() in RESERVED_COLUMNS:
            why = "is the name of a column that every dataset has"
        elif name.lower().endswith("_params"):
            why = "is called as columns of parameters are"
        elif not CONDITION_NAME.fullmatch(name):
            why = "must be of letters, digits, _ and -, at most 60"
        else:
            continue
        raise CnlabError(
            f"condition {name!r} {why}; give the map another one with --map-column NAME=COLUMN (of a folder "
            f"NAME=maps/{name}/) and --condition NAME"
        )


@dataclass(frozen=True)
class VerifyConfig:
    """Compare every file of a finished dataset with its sha256; exit status 2 when something is damaged."""

    folder: Path  # data/NAME
    repair: bool = False  # build the damaged and missing shards again, and nothing else
    source: str = ""  # where the source is now, if it has moved since the build


@dataclass(frozen=True)
class CardConfig:
    """Write README.md (the hub's dataset card) and contact.png of a finished dataset anew."""

    folder: Path  # data/NAME
    license: str = ""  # of the images, e.g. cc-by-4.0; empty: as given to the build


@dataclass(frozen=True)
class ExploreConfig:
    """Write explore.html: a finished dataset's figures, and what other thresholds would take or lose."""

    folder: Path  # data/NAME
    screen: str = ""  # thresholds to compare with, by preset: off, render, default, strict; empty: those of the build
    threshold: dict[str, float] = field(default_factory=dict)  # single thresholds to compare with: NAME VALUE ...


@dataclass(frozen=True)
class DamageConfig:
    """Damage a share of a dataset's training samples; the evaluation samples stay byte for byte."""

    folder: Path  # data/NAME, a finished dataset
    fault: tuple[str, ...]  # KIND=DOSE ..., e.g. wrong_caption=.2 shifted_map=.1
    name: str = ""  # of the new folder, beside the first; empty: made from the options
    seed: int = 1  # of which samples are damaged and how; the same seed nests the doses
    drop_damaged: bool = False  # leave the damaged samples out: what a perfect filter would make of the damaged set


@dataclass(frozen=True)
class SelectConfig:
    """Put a dataset's training samples into the order of a selection; evaluation samples stay byte for byte."""

    folder: Path  # data/NAME, a finished dataset
    select: str  # rank, clusters, or FIGURE:desc or FIGURE:asc, e.g. sharpness:desc
    size: str = ""  # take the first so many, e.g. 1k; empty: all; subsets of the new set are nested selections
    name: str = ""  # of the new folder, beside the first; empty: made from the options
    clip: str = ""  # CLIP model whose embeddings are clustered; empty: small pictures


@dataclass(frozen=True)
class ExportConfig:
    """Write a dataset in the layout of another trainer."""

    folder: Path  # data/NAME, a finished dataset
    to: Literal["imagefolder", "webdataset", "kohya", "simpletuner"]
    out: Path | None = None  # folder to write to; default: exports/NAME-LAYOUT
    condition: str = ""  # the map to pair pictures with; empty: the first (webdataset: all)
    size: str = ""  # so many training samples, e.g. 5k; empty: all
