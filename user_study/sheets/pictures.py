"""Pictures written again so that nothing but pixels is left, all of one length."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from typing import TYPE_CHECKING

from user_study.design.trials import shuffled

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TILES = 4  # a scrambled picture is cut into TILES x TILES parts
END = 12  # bytes of a PNG's last chunk
CHUNK = 12  # bytes of a chunk without its content


def encode(pixels: NDArray[np.uint8], size: tuple[int, int]) -> bytes:
    """PNG bytes of (H, W, 3) uint8 at ``size`` = width and height: no text, time, profile or EXIF."""
    from PIL import Image

    picture = Image.fromarray(pixels)
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=9)
    return buffer.getvalue()


def pad_png(png: bytes, length: int) -> bytes:
    """``png`` with a private chunk before its end that makes it ``length`` bytes long (at least 12 more than it has).

    How well a picture compresses depends on how it was made, so the lengths of a sheet's pictures would tell. The
    content comes from SHAKE-256 of the picture, so equal pictures stay equal and nothing in it can be counted.
    """
    content = b"paDd" + hashlib.shake_256(png).digest(length - len(png) - CHUNK)
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    return png[:-END] + chunk + png[-END:]


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
