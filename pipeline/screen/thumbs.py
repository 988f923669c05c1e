"""Small pictures for the table of rejects."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 64  # pixels of the longer side: enough to see what is wrong, about 1.5 kB


def thumbnail(image: NDArray[np.uint8] | bytes) -> bytes:
    """JPEG bytes, at most 64 px a side, of (H, W, 3) uint8, or of a stored picture, of which no more is decoded."""
    picture = Image.open(io.BytesIO(image)) if isinstance(image, bytes) else Image.fromarray(image)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=2.0)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=80)
    return out.getvalue()
