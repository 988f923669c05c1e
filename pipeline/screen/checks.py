"""Every threshold as a check of one figure, and the figures of a candidate, taken or not.

A screen stops at the first fault. Here all figures are measured, so that what other thresholds would take or lose can
be told without a build.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.conditions import Condition, get_condition
from pipeline.conditions.base import SourceMap
from pipeline.contract.pictures import decode_image
from pipeline.contract.schema import FIGURES
from pipeline.screen.captions import caption_length, letter_share, screen_caption
from pipeline.screen.duplicates import Twin
from pipeline.screen.limits import OFF, PRESETS
from pipeline.screen.maps import QUARTERS, alignment, map_range, screen_map
from pipeline.sources.base import Rejected

Figures = dict[str, float]
#: Thresholds at which only faults that are no matter of degree are left: a caption that is a file name, a map of one
#: value. They count as a share of 0, for a least share of 0 lets them pass.
ABSOLUTE = {**PRESETS["off"], "min_letters": 1e-9, "min_map_share": 1e-9, "max_blockiness": 1e5}


class Check(NamedTuple):
    """A candidate passes when its ``figure`` is at least (``least``) or at most ``threshold``; else ``reason``.

    ``strict``: it must be above or below.

    The figure of a map has its condition behind a slash, e.g. ``map_share/canny``.
    """

    threshold: str
    figure: str
    least: bool
    reason: str
    label: str
    strict: bool = False

    def passes(self, value: NDArray[np.floating], limit: float) -> NDArray[np.bool_]:
        """(N,) values -> (N,) bool; a figure that was not measured (NaN) passes."""
        passed = value >= limit if self.least else value <= limit
        return np.asarray(np.isnan(value) | (passed & (value != limit) if self.strict else passed), bool)


CHECKS = (
    Check("min_side", "short_side", True, "too_small", "shorter side of the original, pixels"),
    Check("max_aspect", "aspect", False, "aspect", "longer side over shorter"),
    Check("min_jpeg_quality", "jpeg_quality", True, "jpeg_damage", "JPEG quality by its tables, 1 ... 100"),
    Check("max_blockiness", "blockiness", False, "jpeg_damage", "share of coarse steps inside 8-pixel blocks"),
    Check("min_contrast", "contrast", True, "uniform", "standard deviation of grey, 0 ... 1"),
    Check("max_clipped", "clipped", False, "exposure", "share of black or white pixels"),
    Check("max_border", "border", False, "border", "share of the square in bars"),
    Check("min_chroma", "chroma", True, "greyscale", "colour that lightness does not explain, Lab units"),
    Check("max_blur", "blur", False, "blur", "blur of the sharpest tile, 0 ... 1"),
    Check("min_map_share", "map_share", True, "map_empty", "share of lit pixels"),
    Check("max_map_share", "map_share", False, "map_saturated", "share of lit pixels"),
    Check("min_map_range", "map_range", True, "map_flat", "levels between the least and the largest value"),
    Check("max_light", "light_share", False, "map_inverted", "share of light pixels"),
    Check("max_shift_gain", "shift_gain", False, "map_misaligned", "how much better it fits moved or mirrored"),
    Check("max_turn_gain", "turn_gain", False, "map_misaligned", "how much better it fits turned by a quarter"),
    Check("min_map_fit", "map_fit", True, "map_misaligned", "correlation of structure with the image"),
    Check("min_caption", "caption_length", True, "caption_empty", "characters, CJK three times"),
    Check("max_caption", "characters", False, "caption_too_long", "characters"),
    Check("min_letters", "letter_share", True, "caption_not_text", "share of letters"),
    Check("min_clip", "clip_match", True, "caption_mismatch", "CLIP similarity of caption and image"),
    Check("max_nsfw", "nsfw", False, "nsfw", "probability"),
    Check("duplicate_bits", "copy_bits", True, "near_duplicate", "bits that differ from an earlier image's hash", True),
    Check("mirror_bits", "mirror_copy_bits", True, "mirrored_copy", "the same, mirrored or turned", True),
    Check("min_crop_fit", "crop_fit", False, "cropped_copy", "how well it fits as a part of an earlier image", True),
)


def raw_figures(width: int, height: int, facts: Mapping[str, Any]) -> Figures:
    """Of an original of so many pixels and its facts."""
    short, long = sorted((width, height))
    named = {name: float(facts[name]) for name in ("jpeg_quality", "blockiness") if facts.get(name) is not None}
    return {"short_side": short, "aspect": long / short, **named}


def map_figures(image: NDArray[np.uint8], picture: NDArray[np.uint8], condition: Condition) -> Figures:
    """Of a map: (H, W) or (H, W, 3) uint8 for an image (H, W, 3) uint8. Raises `Rejected` for one of another size."""
    figures: Figures = {}
    try:
        screen_map(image, picture, condition, ABSOLUTE)
    except Rejected as error:
        if error.reason != "map_empty":
            raise
        figures[f"map_share/{condition.name}"] = 0.0
    if condition.binary:
        figures[f"map_share/{condition.name}"] = float((picture > 127).mean())
    else:
        figures[f"map_range/{condition.name}"] = map_range(picture)
    if condition.light_on_dark:
        figures[f"light_share/{condition.name}"] = float((picture > 127).mean())
    if isinstance(condition, SourceMap) and condition.aligned:
        fit, elsewhere, _ = alignment(image, picture)
        figures |= {f"shift_gain/{condition.name}": elsewhere - fit, f"map_fit/{condition.name}": fit}
        figures[f"turn_gain/{condition.name}"] = alignment(image, picture, QUARTERS)[1] - fit
    return figures


def caption_figures(text: str) -> Figures:
    """Of a caption."""
    text = text.strip()
    if not text:
        return {"caption_length": 0.0, "characters": 0.0}
    lengths = {"caption_length": float(caption_length(text)), "characters": float(len(text))}
    try:
        screen_caption(text, ABSOLUTE)
    except Rejected:
        return {**lengths, "letter_share": 0.0}
    return {**lengths, "letter_share": letter_share(text)}


def row_columns(conditions: Sequence[str]) -> list[str]:
    """Columns of a shard that `row_figures` reads."""
    maps = [name for condition in conditions for name in (condition, f"{condition}_params")]
    return ["image", "text", "width", "height", "facts", *FIGURES, "clip_match", "nsfw", *maps]


def row_figures(row: Mapping[str, Any], conditions: Sequence[str]) -> Figures:
    """Of a sample that was taken, from its row. Maps that were quantised are no longer what the screen saw."""
    named = {name: float(row[name]) for name in (*FIGURES, "clip_match", "nsfw") if row.get(name) is not None}
    figures = {**raw_figures(row["width"], row["height"], json.loads(row["facts"])), **named}
    figures |= caption_figures(row["text"])
    for name in conditions:
        params = json.loads(row[f"{name}_params"])
        condition = get_condition(name, (name,) if params.get("given") else ())
        if not params.get("safe") and (condition.binary or condition.light_on_dark or isinstance(condition, SourceMap)):
            picture = decode_image(row[name]["bytes"])  # one that was extracted is of its image, which is not decoded
            image = decode_image(row["image"]["bytes"]) if isinstance(condition, SourceMap) else picture
            figures |= map_figures(image, picture, condition)
    return figures


def copy_figure(twin: Twin) -> Figures:
    """How far a copy is from what it is a copy of."""
    if twin.how == "cropped":
        return {"crop_fit": twin.bits / 100}
    return {"mirror_copy_bits" if twin.how else "copy_bits": twin.bits}


def checks_of(names: Iterable[str]) -> list[tuple[str, Check]]:
    """(figure as measured, check) for each of these figures, in the order in which candidates meet the checks."""
    measured = sorted(names)
    return [(name, check) for check in CHECKS for name in measured if name.partition("/")[0] == check.figure]


def failed(figures: Mapping[str, NDArray[np.floating]], limits: Mapping[str, float]) -> dict[str, NDArray[np.bool_]]:
    """Threshold -> (N,) bool, for N candidates with (N,) values of each figure."""
    masks: dict[str, NDArray[np.bool_]] = {}
    for name, check in checks_of(figures):
        bad = ~check.passes(figures[name], limits[check.threshold])
        masks[check.threshold] = masks[check.threshold] | bad if check.threshold in masks else bad
    return masks


def advice(reasons: Mapping[str, int], accepted: int, limits: Mapping[str, float]) -> str:
    """What would take a set most of which was rejected for one reason; "" for any other set.

    ``reasons``: rejected samples by reason.
    """
    reason, count = max(reasons.items(), key=lambda item: item[1], default=("", 0))
    total = sum(reasons.values()) + accepted
    if 2 * count <= total:
        return ""
    most = f"{count} of {total} candidates were rejected as {reason}"
    names = [check.threshold for check in CHECKS if check.reason == reason]
    if not names:
        return f"{most}, which no threshold decides; rejects.html shows them"
    stated = ", ".join(f"{name} {limits[name]:g}" for name in names)
    off = {**OFF, "duplicate_bits": -1.0}  # not switched off by any preset
    switch = "--threshold " + " ".join(f"{name} {off[name]:g}" for name in names)
    presets = [p for p in ("render", "off") if all(PRESETS[p][name] == off[name] for name in names)]
    also = f", as --screen {presets[0]} does" if presets else ""
    return f"{most} ({stated}); if they are as they should be, {switch} takes them{also}"
