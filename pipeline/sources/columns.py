"""Which column is the picture, which the caption, which a map: by known names or by the user's word, never by order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.contract.errors import CnlabError
from pipeline.sources.deep import Scale

RULES = 5  # version of how sources of photographs are read; part of their datasets' identity

#: Names of the picture, best first.
IMAGE_NAMES = (
    "image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo", "target", "target_image", "original_image",
    "bytes",
)  # fmt: skip
#: Names of a picture's file in metadata, best first.
FILE_NAMES = ("file_name", "filename", "file", "image_name", "image_path", "img_path", "filepath", "file_path", "path")
TEXT_NAMES = ("text", "caption", "prompt", "captions", "description", "txt", "sentence", "comment", "tags")
#: Names of a map of unsaid kind. It is offered as the condition `GENERIC`; ``source`` only beside a target.
MAP_NAMES = (
    "conditioning_image", "condition_image", "condition", "conditioning", "control_image", "control", "hint",
    "source_image", "source",
)  # fmt: skip
GENERIC = "conditioning_image"
#: What a folder beside one of pictures is called that holds their maps -> condition. Names that may be classes of
#: pictures (normal and abnormal, mask, control) are not among them.
MAP_FOLDERS = {
    **dict.fromkeys(
        ("conditioning_images", "conditioning_image", "conditioning", "conditioning_data", "control_images"), GENERIC
    ),
    "canny": "canny", "depth": "depth", "depths": "depth", "hed": "hed", "lineart": "lineart", "mlsd": "mlsd",
    "normals": "normal", "openpose": "openpose", "scribble": "scribble", "scribbles": "scribble", "seg": "segment",
    "segment": "segment", "segmentation": "segment", "softedge": "softedge",
}  # fmt: skip
#: How the name of a map ends beside its picture: x.jpg and x_canny.png -> condition.
MAP_ENDINGS = {
    **MAP_FOLDERS, "normal": "normal", "mask": "mask", "edge": "edges", "edges": "edges", "pose": "openpose",
    "cond": GENERIC, "condition": GENERIC, "control": GENERIC, "hint": GENERIC,
}  # fmt: skip
#: Columns that repeat another one at a smaller size.
NEITHER = ("thumbnail", "preview")


@dataclass(frozen=True)
class ReadConfig:
    """How to read a source of pictures where the known names do not tell."""

    image_column: str = ""  # column (or, in metadata, the column of file names) of the picture
    caption_column: str = ""  # column of the caption
    map_column: tuple[str, ...] = ()  # NAME=COLUMN of a map; of a folder also NAME=SUBFOLDER/
    follow_links: bool = False  # enter linked folders and read linked files outside the folder
    map_scale: Scale = "range"  # how a given map of more than 8 bits becomes 8: by its range, its percentiles 2 and 98,
    # inverse (distances; near becomes white), or full (65535 is 255)
    depth_near: Literal["white", "black"] = "white"  # how near looks in given depth; black is turned over

    @property
    def maps(self) -> dict[str, str]:
        """Condition -> column. Raises CnlabError for what is no NAME=COLUMN."""
        pairs = [entry.partition("=") for entry in self.map_column]
        for entry, (name, _, column) in zip(self.map_column, pairs, strict=True):
            if not name or not column:
                raise CnlabError(f"--map-column {entry!r} is not NAME=COLUMN, e.g. canny=conditioning_image")
        return {name: column for name, _, column in pairs}


@dataclass(frozen=True)
class Columns:
    """What each column is."""

    image: str
    caption: tuple[str, ...]  # the first that says anything
    maps: dict[str, str]  # condition -> column


def pick(names: Sequence[str], known: Sequence[str]) -> str:
    """The best of ``known`` among ``names``, whatever its case; "" for none."""
    lower = {name.lower(): name for name in reversed(names)}
    return next((lower[name] for name in known if name in lower), "")


def recognise(names: Sequence[str], pictures: Sequence[str], read: ReadConfig, where: str) -> Columns:
    """Picture, captions and maps of a table.

    Parameters
    ----------
    names
        All columns.
    pictures
        Those that hold pictures.
    read
        The user's word, which comes first.
    where
        What is read, for messages.

    Raises
    ------
    CnlabError
        When no picture column has a known name, or a named column is not there.
    """
    listed = ", ".join(names)
    for option, column in [("image", read.image_column), ("caption", read.caption_column), *read.maps.items()]:
        if column and column not in names:
            raise CnlabError(f"{where} has no column {column!r} (asked for as {option}); there are {listed}")
    image = read.image_column or pick(pictures, IMAGE_NAMES)
    if not pictures:
        raise CnlabError(
            f"{where} holds no pictures; its columns: {listed}. Where they are files and a column has their names, put "
            "it into their folder as metadata.parquet, .csv or .jsonl and give folder:PATH"
        )
    if not image:
        raise CnlabError(
            f"{where}: which column is the picture? None has a known name; those that hold pictures: "
            f"{', '.join(pictures) or 'none'}; all: {listed}. Name it with --image-column, the caption with "
            "--caption-column, a map with --map-column NAME=COLUMN"
        )
    if image not in pictures:
        raise CnlabError(
            f"{where}: the column {image!r} holds no pictures; those that do: {', '.join(pictures) or 'none'}"
        )
    others = [name for name in pictures if name != image]
    maps = map_columns(others, read)
    unclear = [n for n in others if n.lower() in IMAGE_NAMES and n not in maps.values()]
    if unclear and not read.image_column:
        raise CnlabError(
            f"{where}: which column is the picture, {image} or {' or '.join(unclear)}? Name it with --image-column"
        )
    caption = (read.caption_column,) if read.caption_column else caption_columns(names)
    return Columns(image, caption, maps)


def caption_columns(names: Sequence[str]) -> tuple[str, ...]:
    """Columns of captions by their usual names, best first. ``captions`` of our own sets is JSON of every source's."""
    lower = {name.lower(): name for name in reversed(names)}
    own = {"captions"} if "caption_source" in lower else set()
    return tuple(lower[name] for name in TEXT_NAMES if name in lower and name not in own)


def map_columns(names: Sequence[str], read: ReadConfig) -> dict[str, str]:
    """Condition -> column, of columns that hold (or name) pictures beside the image: `GENERIC` for an unsaid kind."""
    maps = dict(read.maps)
    rest = [n for n in names if n not in maps.values() and n.lower() not in NEITHER]
    generic = pick(rest, MAP_NAMES)
    if generic and GENERIC not in maps:
        maps[GENERIC] = generic
    named = [n for n in rest if n.lower() not in (*MAP_NAMES, *IMAGE_NAMES)]
    return {**{n: n for n in named}, **maps}


def caption_in(row: Mapping[str, object], columns: Sequence[str], limit: int) -> str:
    """The first of ``columns`` that says anything; of a list of captions the first that does, of one of tags all."""
    for name in columns:
        value = row.get(name)
        if name.lower() == "tags" and isinstance(value, (list, tuple)):
            value = ", ".join(str(tag) for tag in value)
        for text in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(text, str) and text.strip():
                return text[:limit].strip()
    return ""
