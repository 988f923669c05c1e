"""Pictures as bytes: the one encoder and decoder of what is stored."""

from __future__ import annotations

import io
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

JPEG_QUALITY = 95  # and no chroma subsampling: about 45 dB PSNR on photographs, a fifth of PNG's bytes


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


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """PNG or JPEG bytes of our own making -> (H, W, 3) uint8 RGB."""
    with Image.open(io.BytesIO(data), formats=["PNG", "JPEG"]) as picture:
        return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"), dtype=np.uint8)
