"""CLIP embeddings of pictures and captions: the one loader, with the model's own preprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.contract.models import loading

BATCH = 64


@dataclass
class Clip:
    """A CLIP model with what prepares its inputs. ``name`` is recorded with every score."""

    name: str
    model: Any
    tokenizer: Any
    processor: Any

    def images(self, images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]) -> NDArray[np.float64]:
        """(N, H, W, 3) uint8 -> (N, D) float64 image embeddings."""
        import torch

        parts = []
        with torch.inference_mode():
            for start in range(0, len(images), BATCH):
                batch = [np.array(image) for image in images[start : start + BATCH]]
                pixels = self.processor(images=batch, return_tensors="pt", input_data_format="channels_last")
                pixels = pixels["pixel_values"].to(self.model.device)
                parts.append(self.model.get_image_features(pixel_values=pixels).pooler_output)
        return torch.cat(parts).double().cpu().numpy()

    def texts(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """N captions -> (N, D) float64 text embeddings; captions are cut at the model's length."""
        import torch

        length = self.model.config.text_config.max_position_embeddings
        parts = []
        with torch.inference_mode():
            for start in range(0, len(texts), BATCH):
                tokens = self.tokenizer(
                    list(texts[start : start + BATCH]),
                    padding="max_length",
                    truncation=True,
                    max_length=length,
                    return_tensors="pt",
                ).to(self.model.device)
                parts.append(self.model.get_text_features(**tokens).pooler_output)
        return torch.cat(parts).double().cpu().numpy()


def load_clip(name: str, device: str = "cpu", option: str = "") -> Clip:
    """Any two-tower model of transformers (CLIP, SigLIP, dual encoders) from a folder or a hub.

    One without a preprocessor file gets CLIP's own normalisation at its size. Raises CnlabError, which names ``option``
    (see `loading`), when it cannot be loaded or embeds no pictures.
    """
    with loading("clip", name, option):
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, CLIPImageProcessor

        model: Any = AutoModel.from_pretrained(name)
        if not hasattr(model, "get_image_features"):
            raise TypeError(f"{type(model).__name__} has no picture and text towers")
        model = model.to(device).eval()
        tokenizer: Any = AutoTokenizer.from_pretrained(name)
        if Path(name).is_dir() and not (Path(name) / "preprocessor_config.json").is_file():
            size = model.config.vision_config.image_size
            processor = CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
        else:
            processor = AutoImageProcessor.from_pretrained(name)
    return Clip(name, model, tokenizer, processor)
