"""One decoder for every photograph: bytes of unknown origin to upright sRGB pixels, or a reason.

| reason | what it is |
|---|---|
| not_image | does not begin like a format of `FORMATS`, whatever its name says |
| decode | a damaged or truncated file |
| too_large | more than 64 million pixels or 256 MB; told before any pixel is decoded |
| animated | several frames (GIF, APNG, WebP, TIFF): which one was meant? |
| unsupported_mode | float, 32-bit or Lab pixels, which have no agreed way to 8-bit sRGB |
| unreadable | the file could not be read at all (permissions, I/O) |
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, JpegImagePlugin, UnidentifiedImageError, features

from pipeline.sources.base import Rejected
from pipeline.sources.deep import high_byte

#: Pillow's readers that are used. JPEG's hands phones' files with a second picture on as MPO; the first is taken.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", *(("AVIF",) if features.check("avif") else ()))
MAX_PIXELS = 64_000_000  # decompression-bomb cap; Pillow itself only warns at 89 million
MAX_BYTES = 256_000_000
ORIENTATION = 0x0112  # of EXIF: which way up
DEEP = ("I;16", "I;16B", "I;16L", "I;16N")  # 16-bit grey
WIDE = ("I", "F")  # 32 bits
ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
PLAIN = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr", "CMYK", "HSV")
MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"GIF8")  # their first bytes
#: The luminance table of ITU-T T.81, Annex K.1, which IJG's quality scale multiplies.
LUMINANCE = np.array(
    [16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51,
     87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101,
     72, 92, 95, 98, 112, 100, 103, 99]
)  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """How pixels become 8-bit sRGB; by default as those of photographs do.

    ground    grey level that shows through alpha
    profiles  colours are converted by their ICC profile
    deep      16-bit grey to 8 bits; a map's also 32-bit integers and floats
    """

    ground: int = 255
    profiles: bool = True
    deep: Callable[[NDArray[Any]], NDArray[np.uint8]] = high_byte
    modes: tuple[str, ...] = (*PLAIN, *DEEP)


PHOTOGRAPH = Reading()


def decode(
    data: bytes, image_size: int, reading: Reading = PHOTOGRAPH
) -> tuple[NDArray[np.uint8], int, int, dict[str, Any]]:
    """Decode one image.

    Returns (image, width, height, facts): image (H, W, 3) uint8 sRGB, upright, alpha composited on the ground. A JPEG
    may come reduced by 2, 4 or 8 (draft mode), its shorter side still at least ``image_size``; width and height are the
    original's, upright. facts: ``format``, ``mode``, ``icc`` (none, applied, broken), ``jpeg_quality`` (1 ... 100),
    ``alpha`` (whether something may be transparent).
    Raises `Rejected` and nothing else.
    """
    if len(data) > MAX_BYTES:
        raise Rejected("too_large", f"{len(data)} bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata; what matters is raised or checked here
            return _decode(data, image_size, reading)
    except Rejected:
        raise
    except UnidentifiedImageError as error:
        if data.startswith(MAGIC):
            raise Rejected("decode", "begins like an image, and is none") from error
        raise Rejected("not_image", "no known image format") from error
    except Image.DecompressionBombError as error:
        raise Rejected("too_large", "decompression bomb") from error
    except Exception as error:  # whatever a hostile file makes of a parser, it is the file's fault
        raise Rejected("decode", f"{type(error).__name__}: {error}"[:200]) from error


def _decode(data: bytes, image_size: int, reading: Reading) -> tuple[NDArray[np.uint8], int, int, dict[str, Any]]:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise Rejected("too_large", f"{width}x{height}")
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":
            raise Rejected("animated", f"{frames} frames of {image.format}")
        if image.mode not in reading.modes:
            raise Rejected("unsupported_mode", image.mode)
        facts: dict[str, Any] = {"format": image.format, "mode": image.mode, "icc": "none"}
        if isinstance(image, JpegImagePlugin.JpegImageFile):
            facts["jpeg_quality"] = jpeg_quality(image)
            image.draft(None, (image_size, image_size))
        orientation = image.getexif().get(ORIENTATION, 1)
        turned = orientation in (5, 6, 7, 8)
        icc = image.info.get("icc_profile")
        image.load()
        picture = image if orientation == 1 else ImageOps.exif_transpose(image) or image  # it copies what is upright
        if image.mode in ALPHA or "transparency" in image.info:
            facts["alpha"] = True
        colours, facts["icc"] = _to_srgb(picture, icc if reading.profiles else None, reading)
    if turned:
        width, height = height, width
    return np.asarray(colours, dtype=np.uint8), width, height, facts


def is_converted(path: Path) -> bool:
    """Whether `decode` turns a file's pixels, lays them on the ground or changes their colours; False for no image."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(ORIENTATION, 1) != 1
            plain = image.mode in ("1", "L", "RGB") and "transparency" not in image.info
            return turned or not plain or "icc_profile" in image.info
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def jpeg_quality(image: JpegImagePlugin.JpegImageFile) -> int:
    """The quality, 1 ... 100 on IJG's scale, whose luminance table has the sum nearest to that of the file's."""
    table = image.quantization.get(0)
    return int(np.abs(_table_sums() - sum(table)).argmin()) + 1 if table else 100


@cache
def _table_sums() -> NDArray[np.int64]:
    """Sums of the tables of quality 1 ... 100 (libjpeg's jpeg_quality_scaling)."""
    scales = [5000 // q if q < 50 else 200 - 2 * q for q in range(1, 101)]
    return np.array([np.clip((LUMINANCE * scale + 50) // 100, 1, 255).sum() for scale in scales])


def _to_srgb(image: Image.Image, icc: bytes | None, reading: Reading) -> tuple[Image.Image, str]:
    """Any accepted mode -> RGB on the ground, converted by its profile; and what became of that."""
    if image.mode in (*DEEP, *WIDE):
        return Image.fromarray(reading.deep(np.asarray(image))).convert("RGB"), "none"
    if image.mode != "CMYK":
        image = _flat(image, reading.ground)
    if not icc:
        return image if image.mode == "RGB" else image.convert("RGB"), "none"
    try:
        return _by_profile(image, icc), "applied"
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image.convert("RGB"), "broken"  # what every viewer does: show it as if it were sRGB


def _flat(image: Image.Image, ground: int) -> Image.Image:
    """Without palette and alpha: L or RGB, composited on a grey ground."""
    if image.mode in ("La", "RGBa"):  # premultiplied
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.mode in ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        below = Image.new("RGBA", image.size, (ground, ground, ground, 255))
        return Image.alpha_composite(below, image).convert("RGB")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


@cache
def _srgb() -> Any:
    return ImageCms.createProfile("sRGB")


@cache
def _profile(icc: bytes) -> Any:
    return ImageCms.ImageCmsProfile(io.BytesIO(icc))


def _by_profile(image: Image.Image, icc: bytes) -> Image.Image:
    profile = _profile(icc) if len(icc) < 100_000 else ImageCms.ImageCmsProfile(io.BytesIO(icc))
    if ImageCms.getProfileDescription(profile).strip().startswith("sRGB") and image.mode == "RGB":
        return image
    converted = ImageCms.profileToProfile(image, profile, _srgb(), outputMode="RGB")
    assert converted is not None  # None only when converting in place
    return converted
