"""The probability that a picture is not safe for work, by an image classifier."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.contract.errors import CnlabError
from pipeline.contract.models import loading, pick_device


class Nsfw:
    """``AutoModelForImageClassification`` with a label called nsfw, e.g. Falconsai/nsfw_image_detection."""

    def __init__(self, weights: str) -> None:
        self.weights = weights

    def prepare(self) -> None:
        """Load the network. Raises CnlabError, also when none of its labels is called nsfw."""
        _model(self.weights)

    def score(self, image: NDArray[np.uint8]) -> float:
        """(S, S, 3) uint8 RGB -> probability in [0, 1], four decimals."""
        import torch

        processor, model, label = _model(self.weights)
        pixels = processor(images=np.array(image), return_tensors="pt")["pixel_values"].to(pick_device())
        with torch.inference_mode():
            probability = model(pixel_values=pixels).logits.softmax(-1)[0, label]
        return round(float(probability), 4)


@cache
def _model(where: str) -> tuple[Any, Any, int]:
    with loading("nsfw", where):
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        model = AutoModelForImageClassification.from_pretrained(where)
        names = {str(name).lower(): int(i) for i, name in model.config.id2label.items()}
        labels = [i for name, i in names.items() if "nsfw" in name]
        if len(labels) != 1:
            raise CnlabError(f"one of its labels must be called nsfw; it has {', '.join(names)}")
        return AutoImageProcessor.from_pretrained(where), model.eval().to(pick_device()), labels[0]
