"""Every threshold by name, in presets: `default` for photographs, `render` for synthetic pictures.

`pipeline.screen.checks.CHECKS` says which are behind which reason. Where a value says "measured", it is on crops of
photographs, clean and with the fault planted (tests/pipeline/screen); the value lies between the two groups, nearer to
the faulty one.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.contract.errors import CnlabError

RULES = 2  # raised when other samples are refused at the same thresholds
DEFAULT = {
    "min_side": 64.0,  # pixels of the original's shorter side
    "max_aspect": 3.0,  # longer side over shorter: more than two thirds would be cropped away
    "min_chroma": 2.0,  # CIE Lab units of colour that lightness does not explain; measured: grey and sepia < 1
    "max_blur": 0.55,  # blur_effect (Crete et al., 2007) of the sharpest tile; measured: clean <= 0.49, sigma 3 >= 0.66
    "min_jpeg_quality": 25.0,  # 1 ... 100 on the IJG scale, from the quantisation tables
    "max_blockiness": 0.75,  # share of coarse steps inside 8 x 8 blocks; measured: clean <= 0.43, quality 10 about 1
    "max_border": 0.05,  # share of the square in uniform bars on opposite sides
    "min_contrast": 0.02,  # standard deviation of grey in [0, 1]
    "max_clipped": 0.7,  # share of pixels that are black or white to within 2 of 255 levels
    "min_caption": 3.0,  # characters; one of Chinese, Japanese or Korean counts as three
    "max_caption": 2000.0,  # characters; CLIP reads 77 tokens, about 300 characters
    "min_letters": 0.5,  # share of letters with their marks (of any script) among the characters that are no blanks
    "min_map_share": 0.001,  # share of lit pixels in an edge map
    "max_map_share": 0.5,  # share of lit pixels in an edge map
    "max_light": 0.6,  # share of light pixels in a map that is light on dark
    "max_shift_gain": 0.2,  # how much better (correlation) a given map may fit when moved or mirrored; measured on
    # exact depth, normal and segment maps of renders: right ones <= 0.2 in 99 %, moved or mirrored > 0.2 in 80 to 100 %
    "max_turn_gain": 0.2,  # the same for quarter turns
    "min_map_range": 8.0,  # of 255 levels between the least and the largest value of a map that is no edge map
    "min_map_fit": 0.08,  # correlation of a given map's structure with the image's; measured: right ones >= 0.1
    "duplicate_bits": 40.0,  # of 256; measured: JPEG quality 30 <= 38, overlapping crops >= 62, strangers about 128
    "mirror_bits": 40.0,  # of 256, in canonical orientation; measured on 400 disjoint crops: see docs/log.md
    "min_crop_fit": 0.9,  # share of a crop's variance that the picture explains; with the two above, on 624 crops of
    # pictures that they were not tuned on: 0.2 % false alarms, crops to 80 ... 90 % found in 72 ... 62 % (docs/log.md)
    "min_clip": 0.2,  # cosine; of OpenAI's ViT-B/32, whose unrelated pairs lie near 0.15; per model, so measure yours
    "max_nsfw": 0.5,  # probability
}
#: Values at which a check never fires.
OFF = {
    "min_side": 1.0, "max_aspect": 1e9, "min_chroma": -1.0, "max_blur": 1e9, "min_jpeg_quality": 0.0,
    "max_blockiness": 1e9, "max_border": 1.0, "min_contrast": -1.0, "max_clipped": 1.0, "min_caption": 0.0,
    "max_caption": 1e9, "min_letters": 0.0, "min_map_share": 0.0, "max_map_share": 1.0, "max_light": 1.0,
    "max_shift_gain": 1e9, "min_map_fit": -1.0, "mirror_bits": -1.0, "min_crop_fit": 2.0, "min_clip": -1.0,
    "max_nsfw": 1.0, "max_turn_gain": 1e9, "min_map_range": 0.0,
}  # fmt: skip
#: Thresholds that are younger than the identity of tabletop's datasets, which must not change.
LATER = ("mirror_bits", "min_crop_fit", "max_turn_gain", "min_map_range")
PHOTOGRAPHIC = ("min_side", "min_chroma", "max_blur", "max_blockiness", "min_jpeg_quality", "max_border", "max_clipped")
STRICT = {
    "min_side": 256.0, "max_aspect": 2.0, "min_chroma": 3.5, "max_blur": 0.5, "min_jpeg_quality": 50.0,
    "max_blockiness": 0.6, "max_border": 0.02, "min_contrast": 0.05, "max_clipped": 0.4, "min_letters": 0.6,
    "duplicate_bits": 48.0, "mirror_bits": 48.0, "min_crop_fit": 0.85, "min_clip": 0.24, "max_nsfw": 0.2,
}  # fmt: skip
PRESETS: dict[str, dict[str, float]] = {
    "off": {**DEFAULT, **OFF},
    "render": {**DEFAULT, **{name: OFF[name] for name in PHOTOGRAPHIC}},
    "default": DEFAULT,
    "strict": {**DEFAULT, **STRICT},
}


def resolve_limits(preset: str, overrides: Mapping[str, float]) -> dict[str, float]:
    """The thresholds of a preset with single ones replaced. Raises CnlabError for unknown names."""
    if preset not in PRESETS:
        raise CnlabError(f"unknown screen {preset!r}; there are {', '.join(PRESETS)}")
    if unknown := sorted(set(overrides) - set(DEFAULT)):
        raise CnlabError(f"unknown threshold {', '.join(unknown)}; there are {', '.join(DEFAULT)}")
    if 1 < overrides.get("max_blockiness", 0) <= 3:
        raise CnlabError("max_blockiness is a share below 1 (since December 2026; the 1.6 of before is about 0.75)")
    return {**PRESETS[preset], **{name: float(value) for name, value in overrides.items()}}
