"""Photographs that would spoil a training set: small, grey, blurred, damaged, framed, empty ones.

ControlNet 1.1's notes name three faults of 1.0's data: greyscale people, duplicated thousands of times; blurred
or JPEG-damaged images; wrong captions. The first two are looked for here and in `pipeline.screen.duplicates`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
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
ROUNDING = 3.0  # of a block's orthonormal DCT: what rounding to 8 bits leaves (its deviation is 0.3)
COARSE = 24  # the same: steps of the lowest waves at quality 25 are 20 to 28 (ITU-T T.81, Annex K.1),
COARSEST = 160  # and at quality 4 125 to 175
WIDEST = 1024  # an orthonormal DCT of 8 bits gives at most that for a wave
SPARE = 16  # blocks without black or white that are enough
_ANGLES = (2 * np.arange(BLOCK) + 1) * np.arange(3)[:, None] * np.pi / (2 * BLOCK)
LOW_WAVES = (np.cos(_ANGLES) * np.sqrt(np.array([[1.0], [2.0], [2.0]]) / BLOCK)).astype(np.float32)  # DCT-II, 3 x 8


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
    """How much of the slow change inside 8 x 8 blocks is as coarse as JPEG below quality 25 leaves it.

    Quantisation leaves multiples of its steps and nothing between 0 and the first of them (Fan and de Queiroz, 2003).
    Of the five lowest waves of each block, multiples of the step that fits best (at least `COARSE`) speak for it, and
    so do flat blocks side by side whose levels differ; all others that are above the noise of rounding against it.

    Parameters
    ----------
    image
        (H, W, 3) uint8 at its own scale with the blocks' grid starting at its corner; the middle 512 x 512 pixels are
        looked at.

    Returns
    -------
    float
        In [0, 1); 0 where there is nothing to go by. Measured: docs/datasets.md, "What the screens find".
    """
    top, left = (max(side - 512, 0) // 2 // BLOCK * BLOCK for side in image.shape[:2])
    part = image[top : top + 512, left : left + 512]
    rows, columns = part.shape[0] // BLOCK, part.shape[1] // BLOCK
    part = np.ascontiguousarray(part[: rows * BLOCK, : columns * BLOCK])
    grey = cv2.cvtColor(part, cv2.COLOR_RGB2GRAY).astype(np.float32).reshape(rows, BLOCK, columns, BLOCK)
    low = np.abs(np.einsum("rycx,uy,vx->rcuv", grey, LOW_WAVES, LOW_WAVES, optimize=True))
    waves = low[:, :, [0, 1, 1, 0, 2], [1, 0, 1, 2, 0]]
    extreme = ((part == 0) | (part == 255)).reshape(rows, BLOCK, columns, BLOCK, 3).any((1, 3, 4))
    if (~extreme).sum() >= SPARE:  # where levels are cut off, steps are no longer told
        waves = waves[~extreme]
    steps = _flat_steps(grey)
    multiples = sum(_multiples(wave) for wave in waves.reshape(-1, 5).T)
    return (multiples + steps) / (int((waves > ROUNDING).sum()) + steps + 1)


def _multiples(wave: Grey) -> int:
    """How many of one wave's strengths (N,) are multiples of one step, for the best step."""
    counts = np.bincount(np.rint(wave[wave > ROUNDING]).astype(np.intp), minlength=WIDEST)[:WIDEST]
    return int((_on_steps() @ counts).max())


@cache
def _on_steps() -> NDArray[np.int64]:
    """(steps, strengths): 1 where a strength lies within `ROUNDING` of a multiple of the step."""
    steps, strengths = np.arange(COARSE, COARSEST)[:, None], np.arange(WIDEST)
    off = np.abs(strengths - steps * np.maximum(np.rint(strengths / steps), 1))
    return np.asarray(off <= ROUNDING, np.int64)


def _flat_steps(grey: Grey) -> int:
    """Neighbours among the blocks of (R, 8, C, 8) grey that are flat and of different levels."""
    mean, flat = grey.mean((1, 3)), grey.std((1, 3)) < 1
    pairs = [(mean[:, 1:] - mean[:, :-1], flat[:, 1:] & flat[:, :-1]), (mean[1:] - mean[:-1], flat[1:] & flat[:-1])]
    return sum(int((np.abs(step) > FLAT)[both].sum()) for step, both in pairs)


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
        measured = raw.facts["blockiness"] = round(blockiness(raw.image), 3)
        if measured > limits["max_blockiness"]:
            raise Rejected("jpeg_damage", f"blockiness {measured:.2f}")


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
