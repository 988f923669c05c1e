"""One candidate's way from its source to a row of the dataset, or to the table of rejects."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.captions import Captioner, clean_caption, get_captioner
from pipeline.conditions import REGISTRY, Condition, Params, get_condition, weight_free
from pipeline.conditions.base import safe_quantise, sample_rng
from pipeline.config import BuildPlan
from pipeline.contract.errors import CnlabError
from pipeline.contract.names import RENDERED
from pipeline.contract.pictures import decode_image, encode_jpeg, encode_png
from pipeline.screen.captions import screen_caption
from pipeline.screen.checks import ABSOLUTE, Figures, caption_figures, map_figures, raw_figures
from pipeline.screen.duplicates import look_of, perceptual_hash, pixel_hash
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


class SampleBuilder:
    """Makes rows of candidates. Opened once in each worker: source, captioners, conditions, judges."""

    def __init__(self, plan: BuildPlan) -> None:
        self.plan, self.limits = plan, plan.limits
        if unknown := sorted(set(plan.weights) - {*REGISTRY, *MODELS}):
            names = ", ".join((*MODELS, *sorted(REGISTRY)))
            raise CnlabError(f"weights are given for {', '.join(unknown)}; only these can have any: {names}")
        self.source = open_source(plan.source, plan.seed, plan.image_size, plan.condition, plan.read)
        self.conditions: list[Condition] = [
            get_condition(name, self.source.own_maps, plan.weights.get(name, "")) for name in plan.condition
        ]
        self.captioners: list[Captioner] = [get_captioner(name, plan.weights) for name in plan.captions]
        self.judges = self._judges()

    def prepare(self) -> None:
        """Load all weights now, so that what is missing is said at once and by the process that can be heard."""
        for part in (*self.conditions, *self.captioners, *self.judges.values()):
            part.prepare()

    def _judges(self) -> dict[str, Any]:
        judges: dict[str, Any] = {}
        if "clip" in self.plan.weights:
            from pipeline.screen.match import ClipMatch

            judges["clip_match"] = ClipMatch(self.plan.weights["clip"])
        if "nsfw" in self.plan.weights:
            from pipeline.screen.nsfw import Nsfw

            judges["nsfw"] = Nsfw(self.plan.weights["nsfw"])
        return judges

    def build(self, key: str, rank: int, split: str) -> tuple[dict[str, Any], bool]:
        """(row, True) of a sample that is taken, (its line in the table of rejects, False) of one that is not."""
        place = {"key": key, "rank": rank, "split": split}
        raw = None
        try:
            raw = self.source.load(key)
            return {**self.row(raw), **place}, True
        except Rejected as error:
            small = thumbnail(raw.image) if raw is not None else None
            reject = {**place, "reason": error.reason, "detail": error.detail, "thumbnail": small}
            if raw is not None and self.plan.kind not in RENDERED:  # their shards stay byte for byte what they were
                reject["figures"] = self.reject_figures(raw)
            return reject, False

    def row(self, raw: Raw) -> dict[str, Any]:
        """Screen, crop, map and caption one sample; raises `Rejected`.

        Maps are extracted from the pixels as they are stored, so each can be made again from its row. Beside the
        columns of a shard there is ``look``, by which copies are recognised; None where they are not looked for.
        """
        screen_raw(raw, self.limits)
        image = square(raw.image, self.plan.image_size)
        numbers = figures(image)
        screen_image(image, raw.facts, numbers, self.limits)
        stored, image = self._store(image)
        columns: dict[str, Any] = {}
        for condition in self.conditions:
            columns |= self._map(condition, raw, image)
        return {
            "image": {"bytes": stored, "path": None},
            **columns,
            "conditioning_image": columns[self.conditions[0].name],
            **self._caption(raw, image),
            "source": self.plan.kind,
            "width": raw.width,
            "height": raw.height,
            **numbers,
            "facts": json.dumps(raw.facts, sort_keys=True, default=str),
            "sha256": pixel_hash(image),
            "phash": (phash := perceptual_hash(image) if self.plan.duplicates == "on" else ""),
            "look": look_of(image, phash) if phash else None,
        }

    def reject_figures(self, raw: Raw) -> dict[str, Any]:
        """Every figure of a rejected candidate, and ``also``: reasons without a figure that it would meet besides.

        What needs a model is not measured.
        """
        with contextlib.suppress(Rejected):
            screen_raw(raw, ABSOLUTE)  # measures the blockiness
        image = square(raw.image, self.plan.image_size)
        numbers, also = {**raw_figures(raw.width, raw.height, raw.facts), **figures(image)}, []
        image = self._store(image)[1]
        conditions = [c for c in self.conditions if c.name in (*weight_free(), *self.source.own_maps)]
        parts: list[Callable[[], Figures]] = [partial(self._map_figures, c, raw, image) for c in conditions]
        parts.append(partial(self._caption_figures, raw, image))
        for part in parts:
            try:
                numbers |= part()
            except Rejected as error:
                also.append(error.reason)
        return {**numbers, "also": also}

    def _map_figures(self, condition: Condition, raw: Raw, image: Picture) -> Figures:
        params = condition.draw(sample_rng(self.plan.seed, condition.name, raw.key))
        return map_figures(image, self._picture(condition, raw, image, params), condition)

    def _caption_figures(self, raw: Raw, image: Picture) -> Figures:
        quick = [c for c in self.captioners if c.name.partition(":")[0] not in MODELS]
        text = next(iter(self._captions(raw, image, quick).values()), None)
        return {} if text is None and len(quick) < len(self.captioners) else caption_figures(text or "")

    def _store(self, image: Picture) -> tuple[bytes, Picture]:
        """The file of a picture, and the pixels that it holds."""
        if self.plan.image_format == "png":
            return encode_png(image), image
        stored = encode_jpeg(image)
        return stored, decode_image(stored)

    def _picture(self, condition: Condition, raw: Raw, image: Picture, params: Params) -> Picture:
        """The source's map, or an extracted one."""
        if condition.name in raw.maps:
            return square(raw.maps[condition.name], self.plan.image_size, nearest=condition.name in LABELS)
        if condition.name in self.source.own_maps:
            raise Rejected("map_missing", condition.name)
        return condition.extract(image, params)

    def _map(self, condition: Condition, raw: Raw, image: Picture) -> dict[str, Any]:
        name = condition.name
        rng = sample_rng(self.plan.seed, name, raw.key)
        params = condition.draw(rng)
        picture = self._picture(condition, raw, image, params)
        params |= raw.map_params.get(name, {})
        screen_map(image, picture, condition, self.limits)
        if condition.soft and rng.random() < self.plan.safe_rate:
            picture, params = safe_quantise(picture), {**params, "safe": True}
        return {
            name: {"bytes": encode_png(picture, condition.binary), "path": None},
            f"{name}_params": json.dumps(params, sort_keys=True),
        }

    def _captions(self, raw: Raw, image: Picture, captioners: list[Captioner]) -> dict[str, str]:
        """What each captioner says, if it says anything."""
        folder = raw.key.rpartition("/")[0].rpartition("/")[2]
        fields = {**raw.captions, "key": raw.key, "folder": folder}
        captions = {c.name: clean_caption(c.caption(image, fields) or "") for c in captioners}
        return {name: text for name, text in captions.items() if text}

    def _caption(self, raw: Raw, image: Picture) -> dict[str, Any]:
        captions = self._captions(raw, image, self.captioners)
        source, text = next(iter(captions.items()), ("", ""))
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
        every = json.dumps(captions, ensure_ascii=False)
        return {"text": text, "caption_source": source, "captions": every, **scores}
