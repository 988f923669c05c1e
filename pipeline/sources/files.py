"""What the sources of photographs share: suffixes, keys, captions beside images, and maps that come with them."""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import features

from pipeline.sources.base import Rejected
from pipeline.sources.columns import ReadConfig
from pipeline.sources.decode import DEEP, PLAIN, WIDE, Reading, decode
from pipeline.sources.deep import scaled

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif",
    *((".avif",) if features.check("avif") else ()),
)  # fmt: skip
#: Pictures that are not read, by suffix, so that people are told.
UNSUPPORTED = (
    ".heic", ".heif", ".jxl", ".jp2", ".j2k", ".psd", ".svg", ".exr", ".hdr", ".cr2", ".cr3", ".nef", ".arw", ".dng",
    ".raf", ".orf", ".rw2", ".raw", *(() if features.check("avif") else (".avif",)),
)  # fmt: skip
MAX_TEXT = 100_000  # bytes of a caption file that are read: enough to tell that it is too long
FACTS = ("license", "url", "author", "title", "punsafe", "similarity", "original_width", "original_height")
LABELS = ("segment",)  # maps whose colours are classes: never blended


def is_image(name: str) -> bool:
    """By its suffix; what is inside decides `pipeline.sources.decode`."""
    return name.lower().endswith(SUFFIXES)


def matching_files(fs: Any, path: str) -> list[str]:
    """Files of an fsspec filesystem that a pattern stands for; a path that is there as it is written is itself."""
    if not re.search(r"[*?\[]", path) or fs.isfile(path):
        return [path]
    folder, _, name = path.rpartition("/")
    hits: list[str] = fs.glob(f"{glob.escape(folder)}/{name}" if folder and fs.isdir(folder) else path)
    return hits


def stem(name: str) -> str:
    """Without the last suffix."""
    return name.rpartition(".")[0]


def printable_key(name: str) -> str:
    """A file name as a key: itself, or, where it is no UTF-8, spelt with escapes and made unique by a hash."""
    raw = name.encode("utf-8", "surrogateescape")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return f"{raw.decode('utf-8', 'backslashreplace')}~{hashlib.sha256(raw).hexdigest()[:8]}"


def read_text(data: bytes) -> str:
    """A caption file's text: UTF-8, or UTF-16 with its mark as Windows writes it; what is neither becomes U+FFFD."""
    data = data[:MAX_TEXT]
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace").strip()
    return data.decode("utf-8-sig", "replace").strip()


def facts_in(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row says about its image and is worth keeping (`FACTS`); numbers and short texts only."""
    plain = {name: row[name] for name in FACTS if isinstance(row.get(name), (str, int, float))}
    return {name: value[:500] if isinstance(value, str) else value for name, value in plain.items()}


def is_depth(name: str) -> bool:
    """Whether a map's name says that it is depth: ``depth``, ``depth_zoe`` ..."""
    return name.lower().startswith("depth")


def fitted_map(
    name: str, data: bytes, image: NDArray[np.uint8], size: tuple[int, int], read: ReadConfig
) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """Decode the map ``name`` and lay it on ``image``.

    Parameters
    ----------
    name, data
        The condition, and the bytes of its file.
    image, size
        (H, W, 3) uint8, upright, perhaps reduced; its original's (width, height).
    read
        Its ``map_scale`` is the rule for more than 8 bits, its ``depth_near`` how near looks in given depth.

    Returns
    -------
    map, params
        (H, W, 3) uint8 on black where it is transparent, near white if it is depth; what was done to it, for its row.

    Raises
    ------
    Rejected
        map_size where the map's aspect is not the image's (to a hundredth or a pixel), map_missing where it cannot be
        read.
    """
    height, width = image.shape[:2]
    params: dict[str, Any] = {}
    turned_over = is_depth(name) and read.depth_near == "black" and read.map_scale != "inverse"

    def levels(values: NDArray[Any]) -> NDArray[np.uint8]:
        grey, rule = scaled(values, "full" if name in LABELS else read.map_scale)
        params.update(rule)
        return np.where(values > 0, 255 - grey, 0).astype(np.uint8) if turned_over else grey

    wide = () if read.map_scale == "full" or name in LABELS else WIDE
    reading = Reading(ground=0, profiles=False, deep=levels, modes=(*PLAIN, *DEEP, *wide))
    try:
        picture, map_width, map_height, facts = decode(data, min(height, width), reading)
    except Rejected as error:
        raise Rejected("map_missing", f"{name}: {error.reason}, {error.detail}") from error
    drift = abs(map_width * size[1] / (map_height * size[0]) - 1)
    if drift > max(0.01, 1 / min(map_width, map_height)):
        raise Rejected("map_size", f"{name}: {map_width}x{map_height}, its image {size[0]}x{size[1]}")
    if turned_over:
        picture = picture if "scale" in params else 255 - picture
        params["near"] = "black"
    if "alpha" in facts:
        params["alpha"] = "black"
    if picture.shape[:2] == (height, width):
        return picture, params
    smooth = cv2.INTER_AREA if picture.shape[0] > height else cv2.INTER_LINEAR
    method = cv2.INTER_NEAREST if name in LABELS else smooth
    return np.asarray(cv2.resize(picture, (width, height), interpolation=method), dtype=np.uint8), params
