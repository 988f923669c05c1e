"""Does the caption belong to the picture? CLIP's cosine similarity, the filter of LAION and DataComp."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.contract.models import device, loading


class ClipMatch:
    """Cosine similarity of a picture and a text by a ``CLIPModel`` from a local folder or the hub.

    The quantity of CLIPScore (Hessel et al., EMNLP 2021) before its scaling by 2.5. LAION-400M kept pairs above 0.3 of
    OpenAI's ViT-B/32, DataComp (Gadre et al., 2023) the best 30 % by ViT-L/14: such numbers belong to one model, so
    look at ``clip_match`` of a first build before setting ``min_clip`` for another one.
    """

    def __init__(self, weights: str) -> None:
        self.weights = weights

    def prepare(self) -> None:
        """Load the network."""
        _model(self.weights)

    def score(self, image: NDArray[np.uint8], text: str) -> float:
        """(S, S, 3) uint8 RGB and its caption -> cosine in [-1, 1], four decimals. Text beyond the context is cut."""
        import torch
        from torch.nn.functional import cosine_similarity

        processor, tokenizer, model = _model(self.weights)
        pixels = processor(images=np.array(image), return_tensors="pt")["pixel_values"].to(device())
        words = tokenizer(
            [text], truncation=True, max_length=model.config.text_config.max_position_embeddings, return_tensors="pt"
        ).to(device())
        with torch.inference_mode():
            seen = model.get_image_features(pixel_values=pixels).pooler_output
            said = model.get_text_features(
                input_ids=words["input_ids"], attention_mask=words["attention_mask"]
            ).pooler_output
        return round(float(cosine_similarity(seen, said)[0]), 4)


@cache
def _model(where: str) -> tuple[Any, Any, Any]:
    with loading("clip", where):
        from transformers import AutoImageProcessor, CLIPImageProcessor, CLIPModel, CLIPTokenizer

        model = CLIPModel.from_pretrained(where)
        side = model.config.vision_config.image_size
        if Path(where).is_dir() and not (Path(where) / "preprocessor_config.json").exists():
            size = {"height": side, "width": side}  # mean and deviation are the class's own, which are CLIP's
            processor: Any = CLIPImageProcessor(size=size, crop_size=size, do_center_crop=False)
        else:
            processor = AutoImageProcessor.from_pretrained(where)
        return processor, CLIPTokenizer.from_pretrained(where), model.eval().to(device())
