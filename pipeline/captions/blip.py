"""Captions by BLIP (Li et al., ICML 2022) through transformers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from pipeline.captions.base import Picture
from pipeline.contract.models import loading, pick_device

DEFAULT = "Salesforce/blip-image-captioning-base"
MAX_TOKENS = 48
BEAMS = 3  # as BLIP's own captioning demo; no sampling, so the caption is a function of the picture


class Blip:
    """``BlipForConditionalGeneration`` from a local folder or the hub ("": `DEFAULT`)."""

    name = "blip"

    def __init__(self, weights: str = "") -> None:
        self.weights = weights or DEFAULT

    def prepare(self) -> None:
        """Load the network."""
        _model(self.weights)

    def caption(self, image: Picture, texts: Mapping[str, str]) -> str | None:
        """Beam search without sampling."""
        import torch

        processor, model = _model(self.weights)
        pixels = processor(images=image, return_tensors="pt")["pixel_values"].to(model.device, model.dtype)
        with torch.inference_mode():
            tokens = model.generate(pixel_values=pixels, max_new_tokens=MAX_TOKENS, num_beams=BEAMS, do_sample=False)
        text: str = processor.decode(tokens[0], skip_special_tokens=True)
        return text.strip() or None


@cache
def _model(where: str) -> tuple[Any, Any]:
    with loading("blip", where):
        from transformers import AutoProcessor, BlipForConditionalGeneration

        model = BlipForConditionalGeneration.from_pretrained(where)
        return AutoProcessor.from_pretrained(where), model.eval().to(pick_device())
