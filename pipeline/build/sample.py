"""One candidate's way from its source to a row of the dataset, or to the table of rejects."""

from __future__ import annotations

import json
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.captions import Captioner, clean_caption, get_captioner
from pipeline.conditions import REGISTRY, Condition, get_condition
from pipeline.conditions.base import safe_quantise, sample_rng
from pipeline.config import DatasetConfig
from pipeline.contract.errors import CnlabError
from pipeline.contract.pictures import decode_image, encode_jpeg, encode_png
from pipeline.screen.captions import screen_caption
from pipeline.screen.duplicates import perceptual_hash, pixel_hash
from pipeline.screen.images import figures, screen_image, screen_raw
from pipeline.screen.maps import screen_map
from pipeline.screen.thumbs import thumbnail
from pipeline.sources import Raw, Rejected, open_source
from pipeline.sources.files import LABELS

Picture = NDArray[np.uint8]
MODELS = ("blip", "interrogator", "clip", "nsfw")  # that are no conditions and take weights


def square(image: Picture, size: int, nearest: bool = False) -> Picture:
    """Centre crop to a square and resize to (size, size, ...).

    Shrinking averages over areas, enlarging is Lanczos: the antialiased choices (Parmar et al., 2022). ``nearest`` for
    maps whose colours are labels.
    """
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    crop = image[top : top + side, left : left + side]
    if side == size:
        return np.ascontiguousarray(crop)
    smooth = cv2.INTER_AREA if side > size else cv2.INTER_LANCZOS4
    resized = cv2.resize(crop, (size, size), interpolation=cv2.INTER_NEAREST if nearest else smooth)
    return np.asarray(resized, dtype=np.uint8)


class Recipe:
    """Everything a candidate goes through, opened once in each worker: source, captioners, conditions, judges."""

    def __init__(self, config: DatasetConfig) -> None:
        self.config, self.limits = config, config.limits
        if unknown := sorted(set(config.weights) - {*REGISTRY, *MODELS}):
            known = ", ".join((*MODELS, *sorted(REGISTRY)))
            raise CnlabError(f"weights are given for {', '.join(unknown)}; only these can have any: {known}")
        self.source = open_source(config.source, config.seed, config.image_size, config.condition, config.read)
        self.conditions: list[Condition] = [
            get_condition(name, self.source.given, config.weights.get(name, "")) for name in config.condition
        ]
        self.captioners: list[Captioner] = [get_captioner(name, config.weights) for name in config.captions]
        self.judges = self._judges()

    def prepare(self) -> None:
        """Load all weights now, so that what is missing is said at once and by the process that can be heard."""
        for part in (*self.conditions, *self.captioners, *self.judges.values()):
            part.prepare()

    def _judges(self) -> dict[str, Any]:
        judges: dict[str, Any] = {}
        if "clip" in self.config.weights:
            from pipeline.screen.match import ClipMatch

            judges["clip_match"] = ClipMatch(self.config.weights["clip"])
        if "nsfw" in self.config.weights:
            from pipeline.screen.nsfw import Nsfw

            judges["nsfw"] = Nsfw(self.config.weights["nsfw"])
        return judges

    def take(self, key: str, rank: int, split: str) -> tuple[dict[str, Any], bool]:
        """(row, True) of a sample that is taken, (its line in the table of rejects, False) of one that is not."""
        where = {"key": key, "rank": rank, "split": split}
        raw = None
        try:
            raw = self.source.load(key)
            return {**self.row(raw), **where}, True
        except Rejected as error:
            small = thumbnail(raw.image) if raw is not None else None
            return {**where, "reason": error.reason, "detail": error.detail, "thumbnail": small}, False

    def row(self, raw: Raw) -> dict[str, Any]:
        """Screen, crop, map and caption one sample; raises `Rejected`.

        Maps are extracted from the pixels as they are stored, so each can be made again from its row.
        """
        screen_raw(raw, self.limits)
        image = square(raw.image, self.config.image_size)
        numbers = figures(image)
        screen_image(image, raw.facts, numbers, self.limits)
        stored = encode_jpeg(image) if self.config.image_format == "jpeg" else encode_png(image)
        if self.config.image_format == "jpeg":
            image = decode_image(stored)
        columns: dict[str, Any] = {}
        for condition in self.conditions:
            columns |= self._map(condition, raw, image)
        return {
            "image": {"bytes": stored, "path": None},
            **columns,
            "conditioning_image": columns[self.conditions[0].name],
            **self._caption(raw, image),
            "source": self.config.kind,
            "width": raw.width,
            "height": raw.height,
            **numbers,
            "facts": json.dumps(raw.facts, sort_keys=True, default=str),
            "sha256": pixel_hash(image),
            "phash": perceptual_hash(image) if self.config.duplicates == "on" else "",
        }

    def _map(self, condition: Condition, raw: Raw, image: Picture) -> dict[str, Any]:
        name = condition.name
        rng = sample_rng(self.config.seed, name, raw.key)
        params = condition.draw(rng)
        if name in raw.maps:
            given = raw.maps[name]
            made = square(given, self.config.image_size, nearest=name in LABELS)
        elif name in self.source.given:
            raise Rejected("map_missing", name)
        else:
            made = condition.extract(image, params)
        screen_map(image, made, condition, self.limits)
        if condition.soft and rng.random() < self.config.safe_rate:
            made, params = safe_quantise(made), {**params, "safe": True}
        return {
            name: {"bytes": encode_png(made, condition.binary), "path": None},
            f"{name}_params": json.dumps(params, sort_keys=True),
        }

    def _caption(self, raw: Raw, image: Picture) -> dict[str, Any]:
        folder = raw.key.rpartition("/")[0].rpartition("/")[2]
        given = {**raw.captions, "key": raw.key, "folder": folder}
        said = {c.name: clean_caption(c.caption(image, given) or "") for c in self.captioners}
        said = {name: text for name, text in said.items() if text}
        source, text = next(iter(said.items()), ("", ""))
        screen_caption(text, self.limits)
        scores: dict[str, float | None] = {"clip_match": None, "nsfw": None}
        if judge := self.judges.get("clip_match"):
            scores["clip_match"] = match = judge.score(image, text)
            if match < self.limits["min_clip"]:
                raise Rejected("caption_mismatch", f"CLIP similarity {match:.3f}: {text[:80]}")
        if judge := self.judges.get("nsfw"):
            scores["nsfw"] = probability = judge.score(image)
            if probability > self.limits["max_nsfw"]:
                raise Rejected("nsfw", f"probability {probability:.3f}")
        return {"text": text, "caption_source": source, "captions": json.dumps(said, ensure_ascii=False), **scores}
