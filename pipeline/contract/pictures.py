"""Pictures: the one encoder and decoder of what is stored, guards on arrays, and sheets of pictures for people."""

from __future__ import annotations

import io
import textwrap
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.contract.errors import CnlabError
from pipeline.contract.files import atomic

Picture = NDArray[np.uint8]  # (H, W, 3) uint8 sRGB
Pictures = NDArray[np.uint8]  # (N, H, W, 3) uint8 sRGB
JPEG_QUALITY = 95  # and no chroma subsampling: about 45 dB PSNR on photographs, a fifth of PNG's bytes
MAX_PIXELS = 64_000_000  # of one picture that a file may unfold to
PAPER, INK, PALE = (250, 250, 248), (20, 20, 20), (110, 110, 110)


def encode_png(image: NDArray[np.uint8], binary: bool = False) -> bytes:
    """PNG bytes without metadata: (H, W, 3) as RGB, (H, W) as grey, or with one bit a pixel when ``binary``."""
    picture = Image.fromarray(image)
    if binary:  # a threshold, not Pillow's dithering
        picture = picture.point(lambda v: 255 if v > 127 else 0).convert("1", dither=Image.Dither.NONE)
    out = io.BytesIO()
    # run lengths suit one-bit edges: half the time of zlib's search, and 5 % smaller
    strategy = {"compress_type": zlib.Z_RLE} if binary else {}
    picture.save(out, "PNG", compress_level=6, **strategy)
    return out.getvalue()


def encode_jpeg(image: NDArray[np.uint8]) -> bytes:
    """JPEG bytes of (H, W, 3) uint8 at quality 95, 4:4:4, without metadata."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return out.getvalue()


def decode_image(data: bytes, where: str = "a stored picture") -> Picture:
    """PNG or JPEG bytes of our own making -> (H, W, 3) uint8 RGB. Raises CnlabError naming ``where``."""
    try:
        with Image.open(io.BytesIO(data), formats=["PNG", "JPEG"]) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise CnlabError(f"{where} is larger than {MAX_PIXELS // 1_000_000} megapixels")
            return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"), dtype=np.uint8)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise CnlabError(f"{where} is no readable PNG or JPEG ({error})") from error


def read_picture(path: Path) -> Picture:
    """A PNG or JPEG file -> (H, W, 3) uint8; raises CnlabError naming a missing, damaged or enormous one."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise CnlabError(f"{path} does not exist; make it again, or give the folder that holds it") from error
    return decode_image(data, str(path))


def write_picture(path: Path, image: NDArray[np.uint8]) -> None:
    """Write a PNG atomically. PNG because JPEG's blocks would be measured as part of the model."""
    with atomic(path) as temporary:
        temporary.write_bytes(encode_png(image))


def stack_images(images: Sequence[Picture], name: str, least: int = 2) -> Pictures:
    """(H, W, 3) uint8 pictures of one size -> (N, H, W, 3); raises CnlabError when there are too few or they differ."""
    if len(images) < least:
        raise CnlabError(f"{name}: {len(images)} images, at least {least} are needed; raise --images")
    first = images[0].shape
    for index, image in enumerate(images):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise CnlabError(f"{name}: image {index} is {image.dtype} {image.shape}, not (H, W, 3) uint8")
        if image.shape != first:
            raise CnlabError(
                f"{name}: image {index} is {image.shape[1]}x{image.shape[0]}, image 0 is {first[1]}x{first[0]}"
            )
    return np.stack(list(images))


def to_uint8(images: NDArray[np.floating], name: str) -> Pictures:
    """(N, H, W, 3) float in [0, 1] -> uint8, rounded; what is not finite raises CnlabError instead of turning black."""
    bad = np.flatnonzero(~np.isfinite(images.reshape(len(images), -1)).all(axis=1))
    if len(bad):
        raise CnlabError(f"{name}: image {bad[0]} of a batch holds NaN; try --dtype float32")
    return np.asarray(np.clip(np.round(images * 255), 0, 255), dtype=np.uint8)


@dataclass(frozen=True)
class Tile:
    """One place of a `picture_sheet`: pictures from top to bottom, (H, W) or (H, W, 3) uint8, and what to say below."""

    pictures: tuple[NDArray[np.uint8], ...]
    title: str = ""
    text: str = ""


def picture_sheet(
    tiles: Sequence[Tile], columns: int, side: int, gap: int = 8, label: int = 0, head: str = ""
) -> Image.Image:
    """Tiles in rows of ``columns``, every picture scaled to ``side`` x ``side`` pixels.

    There are ``gap`` pixels between tiles and around them, ``label`` pixels below a tile for its title (one line) and
    text (as many lines as fit), and a line above everything for ``head``.
    """
    high = side * max((len(tile.pictures) for tile in tiles), default=1) + label + gap
    top = 16 if head else 0
    size = (columns * (side + gap) + gap, top + gap + -(-len(tiles) // columns) * high)
    sheet = Image.new("RGB", size, PAPER)
    draw, large, small = ImageDraw.Draw(sheet), ImageFont.load_default(12), ImageFont.load_default(9)
    draw.text((gap, 4), head, fill=PALE, font=small)
    for i, tile in enumerate(tiles):
        x, y = gap + (i % columns) * (side + gap), top + gap + (i // columns) * high
        for picture in tile.pictures:
            shown = Image.fromarray(np.ascontiguousarray(picture)).convert("RGB")
            sheet.paste(shown.resize((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0), (x, y))
            y += side
        room = label - 2
        if tile.title:
            draw.text((x, y + 1), tile.title, fill=INK, font=large)
            y, room = y + 15, room - 15
        plain = "".join(c if c.isprintable() else " " for c in tile.text)[:400]
        lines = textwrap.wrap(plain, max(side // 5, 8), max_lines=max(room // 12, 1), placeholder=" ...")
        draw.multiline_text((x, y + 2), "\n".join(lines if label else ()), fill=PALE, font=small, spacing=2)
    return sheet
