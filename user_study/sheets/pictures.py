"""Pictures written again so that nothing but pixels is left, in files of one length that take one time to decode."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING

from user_study.design.trials import shuffled

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

TILES = 4  # a scrambled picture is cut into TILES x TILES parts


def encode(pixels: NDArray[np.uint8], size: tuple[int, int], stored: bool = False) -> bytes:
    """PNG bytes of (H, W, 3) uint8 at ``size`` = width and height: no text, time, profile or EXIF.

    How well a picture compresses, which row filters suit it and how long it takes to inflate depend on how it was made.
    With ``stored`` nothing is compressed or filtered, so files of one size have one length and take equally long.
    """
    from PIL import Image

    picture = Image.fromarray(pixels)
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    if stored:
        return _stored_png(picture)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=9)
    return buffer.getvalue()


def _stored_png(picture: Image.Image) -> bytes:
    """PNG of 8-bit RGB with filter 0 in every row and an uncompressed data stream (W3C PNG, sections 7 to 11)."""
    wide, high = picture.size
    data, row = picture.convert("RGB").tobytes(), 3 * wide
    rows = b"".join(b"\0" + data[n * row : (n + 1) * row] for n in range(high))
    header = struct.pack(">IIBBBBB", wide, high, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, level=0)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )


def scramble(pixels: NDArray[np.uint8], salt: str) -> NDArray[np.uint8]:
    """Cut (H, W, 3) into 4 x 4 tiles and move every one of them: same colours, but the layout of the map is gone.

    Rows and columns that do not divide by 4 stay at the edge. The tiles follow one cycle, so none stays at its place.
    """
    high, wide = (n // TILES for n in pixels.shape[:2])
    out = pixels.copy()
    order = [int(n) for n in shuffled(map(str, range(TILES * TILES)), salt, "tiles")]

    def tile(n: int) -> tuple[slice, slice]:
        row, column = divmod(n, TILES)
        return slice(row * high, (row + 1) * high), slice(column * wide, (column + 1) * wide)

    for here, there in zip(order, order[1:] + order[:1], strict=True):
        out[tile(there)] = pixels[tile(here)]
    return out
