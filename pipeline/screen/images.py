"""Photographs that would spoil a training set: small, grey, blurred, damaged, framed, empty ones.

ControlNet 1.1's notes name three faults of 1.0's data: greyscale people, duplicated thousands of times; blurred
or JPEG-damaged images; wrong captions. The first two are looked for here and in `pipeline.screen.duplicates`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.sources.base import Raw, Rejected

TILE = 128  # pixels: a picture is as sharp as its sharpest tile, so a blurred background is no fault
SMALL = 64  # pixels a side, for figures that need no detail
BLOCK = 8  # pixels, JPEG's
FLAT = 4.0  # grey levels: the standard deviation along a line of a bar, JPEG noise included
STEP = 8.0  # grey levels: the jump from a bar to the picture


Grey = NDArray[np.float32]


def figures(image: NDArray[np.uint8]) -> dict[str, float]:
    """Quality figures of (S, S, 3) uint8.

    brightness  mean grey, in [0, 1]
    contrast    standard deviation of grey, in [0, 1]
    sharpness   variance of the Laplacian of grey in [0, 1] (Pech-Pacheco et al., 2000)
    blur        perceptual blur of the sharpest tile, in [0, 1] (Crete et al., 2007; skimage.measure.blur_effect)
    chroma      CIE Lab units: spread of (a, b) that a quadratic in L leaves unexplained; about 0 for grey and sepia
    clipped     share of pixels within 2 levels of black or white
    border      share of the square in uniform bars on opposite sides
    """
    from skimage.measure import blur_effect

    grey = np.asarray(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY), np.uint8)
    laplacian = np.asarray(cv2.Laplacian(grey, cv2.CV_32F, scale=1 / 255), np.float32)
    return {
        "brightness": float(grey.mean()) / 255,
        "contrast": float(grey.std()) / 255,
        "sharpness": float(laplacian.var()),
        "blur": float(blur_effect(sharpest_tile(grey, laplacian))),
        "chroma": _chroma(image),
        "clipped": float(((grey <= 2) | (grey >= 253)).mean()),
        "border": border_share(grey),
    }


def sharpest_tile(grey: NDArray[np.uint8], laplacian: Grey) -> NDArray[np.uint8]:
    """The tile of 128 x 128 pixels with the most energy in its Laplacian; a smaller picture as it is."""
    if min(grey.shape) <= TILE:
        return grey
    step = TILE // 4
    mean = cv2.blur(laplacian * laplacian, (TILE, TILE))
    energy = mean[TILE // 2 : 1 - TILE // 2 : step, TILE // 2 : 1 - TILE // 2 : step]
    y, x = np.unravel_index(int(energy.argmax()), energy.shape)
    return grey[y * step : y * step + TILE, x * step : x * step + TILE]


def _chroma(image: NDArray[np.uint8]) -> float:
    small = cv2.resize(image, (SMALL, SMALL), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).reshape(-1, 3)
    light = lab[:, 0] / 100
    basis = np.stack([np.ones_like(light), light, light**2], 1)
    rest = lab[:, 1:] - basis @ np.linalg.lstsq(basis, lab[:, 1:], rcond=None)[0]
    return float(np.sqrt((rest**2).sum(1).mean()))


def border_share(grey: NDArray[np.uint8]) -> float:
    """Share of the picture in bars: lines of one colour on two opposite sides, ending in a step on both."""
    height, width = grey.shape
    return float(max(_bars(grey) / height, _bars(grey.T) / width))


def _bars(grey: NDArray[np.uint8]) -> int:
    """Rows in bars at the top and the bottom of a picture; 0 unless both are there and alike."""
    top = _bar(grey)
    bottom = _bar(grey[::-1]) if top else 0
    alike = abs(float(grey[0].mean()) - float(grey[-1].mean())) < STEP
    return top + bottom if top and bottom and alike and top + bottom < len(grey) else 0


def _bar(grey: NDArray[np.uint8]) -> int:
    """Length of the run of flat lines of one level at the beginning, 0 where it fades into the picture."""
    if grey[0].std() >= FLAT:  # nearly every photograph
        return 0
    mean, spread = grey.mean(1), grey.std(1)
    flat = (spread < FLAT) & (np.abs(mean - mean[0]) < FLAT)
    run = len(flat) if flat.all() else int(flat.argmin())
    if run == 0 or run >= len(flat) - 1:
        return run
    # the line after the bar may be half bar; the one after that is picture
    inside = max(abs(mean[run] - mean[0]), abs(mean[run + 1] - mean[0]), spread[run], spread[run + 1])
    return run if inside > STEP else 0


def blockiness(image: NDArray[np.uint8]) -> float:
    """Mean jump across the borders of JPEG's 8 x 8 blocks over that inside of blocks; 1 without damage.

    (H, W, 3) uint8 at its own scale with the blocks' grid starting at its corner; at most the first 512 x 512 pixels.
    The better fitting of the two axes is no evidence alone, so the smaller ratio counts (after Wang et al., 2000).
    """
    grey = cv2.cvtColor(np.ascontiguousarray(image[:512, :512]), cv2.COLOR_RGB2GRAY).astype(np.float32)
    ratios = []
    for plane in (grey, grey.T):
        jumps = np.abs(np.diff(plane, axis=1)).mean(0)
        at = np.arange(1, len(jumps) + 1) % BLOCK == 0
        ratios.append(float(jumps[at].mean() / max(float(jumps[~at].mean()), 0.25)))
    return min(ratios)


def screen_raw(raw: Raw, limits: Mapping[str, float]) -> None:
    """Raise `Rejected` with too_small, aspect or jpeg_damage; leaves ``blockiness`` in the facts where it is measured.

    A picture that the decoder has reduced has lost its grid of blocks; then only the quantisation tables speak.
    """
    short, long = sorted((raw.width, raw.height))
    size = f"{raw.width}x{raw.height}"
    if short < limits["min_side"]:
        raise Rejected("too_small", size)
    if long / short > limits["max_aspect"]:
        raise Rejected("aspect", size)
    quality = raw.facts.get("jpeg_quality")
    if quality is not None and quality < limits["min_jpeg_quality"]:
        raise Rejected("jpeg_damage", f"quality {quality:.0f}")
    if short >= 4 * BLOCK and raw.image.shape[:2] == (raw.height, raw.width) and limits["max_blockiness"] < 1e6:
        found = raw.facts["blockiness"] = round(blockiness(raw.image), 3)
        if found > limits["max_blockiness"]:
            raise Rejected("jpeg_damage", f"blocks {found:.2f} times as rough at their borders")


def screen_image(
    image: NDArray[np.uint8], facts: Mapping[str, Any], numbers: Mapping[str, float], limits: Mapping[str, float]
) -> None:
    """Raise `Rejected` with uniform, exposure, border, greyscale or blur for a square and its `figures`."""
    if numbers["contrast"] < limits["min_contrast"]:
        raise Rejected("uniform", f"grey varies by {numbers['contrast']:.4f}")
    if numbers["clipped"] > limits["max_clipped"]:
        raise Rejected("exposure", f"{numbers['clipped']:.2f} of the pixels are black or white")
    if numbers["border"] > limits["max_border"]:
        raise Rejected("border", f"{numbers['border']:.2f} of the square")
    if numbers["chroma"] < limits["min_chroma"]:
        raise Rejected("greyscale", f"chroma {numbers['chroma']:.2f}")
    if numbers["blur"] > limits["max_blur"]:
        raise Rejected("blur", f"{numbers['blur']:.2f} at the sharpest place")
