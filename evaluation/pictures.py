"""Pictures in and out: PNG files as arrays, and the guards every judge relies on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pipeline.contract.errors import CnlabError
from pipeline.contract.files import atomic

Pictures = NDArray[np.uint8]  # (N, H, W, 3) uint8 sRGB


def stack_images(images: Sequence[NDArray[np.uint8]], name: str, least: int = 2) -> Pictures:
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


def read_picture(path: Path) -> NDArray[np.uint8]:
    """A PNG file -> (H, W, 3) uint8; raises CnlabError naming a missing or damaged one."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            return np.array(picture.convert("RGB"), dtype=np.uint8)
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise CnlabError(
            f"{path} is missing or no PNG; delete its folder's manifest.json and it, then run again"
        ) from error


def write_picture(path: Path, image: NDArray[np.uint8]) -> None:
    """Write a PNG atomically. PNG because JPEG's blocks would be measured as part of the model."""
    with atomic(path) as temporary:
        Image.fromarray(image).save(temporary, "PNG")
