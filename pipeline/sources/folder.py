"""A directory of ordinary images with captions from a sidecar, a metadata file, or the file name."""

from __future__ import annotations

import csv
import json
import re
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.io import CnlabError, fingerprint
from pipeline.sources.base import Raw, Rejected

#: Extension -> Pillow's format. Nothing else is opened, whatever a file claims to be.
FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
MAX_PIXELS = 64_000_000  # decompression-bomb cap; Pillow itself only warns at 89 million
METADATA = ("metadata.jsonl", "metadata.csv")


class Folder:
    """Every image below ``where``; the key is the path relative to it."""

    given: tuple[str, ...] = ()

    def __init__(self, where: str, image_size: int) -> None:
        self.root, self.image_size = Path(where).expanduser(), image_size
        if not where or not self.root.is_dir():
            raise CnlabError(f"source folder {where!r} is not a directory; give SOURCE=folder:PATH")
        self._files = sorted(p for p in self.root.rglob("*") if p.suffix.lower() in FORMATS and p.is_file())
        if not self._files:
            raise CnlabError(f"no images ({', '.join(FORMATS)}) below {self.root}")
        self._captions = _metadata(self.root)

    def keys(self) -> list[str]:
        """Relative POSIX paths."""
        return [p.relative_to(self.root).as_posix() for p in self._files]

    def fingerprint(self) -> str:
        """Of names, sizes, modification times and captions' text."""
        sidecars = [p.with_suffix(".txt") for p in self._files]
        stats = [
            (p.relative_to(self.root).as_posix(), p.stat()) for p in (*self._files, *filter(Path.exists, sidecars))
        ]
        return fingerprint({"files": [(n, s.st_size, s.st_mtime_ns) for n, s in stats], "captions": self._captions})

    def load(self, key: str) -> Raw:
        """Decode, upright, sRGB, square. Reasons: decode, too_large, not_image."""
        path = self.root / key
        image, (width, height) = _decode(path)
        return Raw(key, np.asarray(image), self._read_captions(path, key), width, height)

    def _read_captions(self, path: Path, key: str) -> dict[str, str]:
        found = {}
        sidecar = path.with_suffix(".txt")
        if sidecar.is_file():
            found["sidecar"] = sidecar.read_text(encoding="utf-8", errors="replace").strip()
        if key in self._captions:
            found["metadata"] = self._captions[key].strip()
        words = re.sub(r"[_\-.]+", " ", path.stem)
        return {**found, "filename": re.sub(r"\s+", " ", words).strip()}


def _metadata(root: Path) -> dict[str, str]:
    """``file_name`` -> ``text`` from metadata.jsonl or metadata.csv, the layout of `datasets`' imagefolder."""
    for name in METADATA:
        path = root / name
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        try:
            rows = [json.loads(s) for s in text.splitlines() if s.strip()] if name.endswith("l") else None
            rows = list(csv.DictReader(text.splitlines())) if rows is None else rows
            return {str(r["file_name"]): str(r["text"]) for r in rows}
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise CnlabError(f"{path}: every row needs file_name and text ({error!r})") from error
    return {}


def _decode(path: Path) -> tuple[Image.Image, tuple[int, int]]:
    """The upright RGB image and its original size. Alpha is composited on white."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)  # damaged EXIF blocks: the pixels are what counts
            with Image.open(path, formats=sorted(set(FORMATS.values()))) as handle:
                if handle.width * handle.height > MAX_PIXELS:
                    raise Rejected("too_large", f"{handle.width}x{handle.height}")
                size = handle.size
                upright = ImageOps.exif_transpose(handle)
                if upright.mode in ("I", "I;16", "I;16B", "F"):
                    raise Rejected("not_image", f"mode {upright.mode}: more than 8 bits a channel")
                if "A" in upright.mode or "transparency" in upright.info:
                    rgba = upright.convert("RGBA")
                    upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
                return upright.convert("RGB"), size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Rejected("too_large", str(error)) from error
    except UnidentifiedImageError as error:
        raise Rejected("not_image", "content is not one of the accepted formats") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise Rejected("decode", str(error)[:200]) from error

