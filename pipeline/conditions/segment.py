"""Semantic segmentation by a network, in ADE20K's colours, through transformers."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.conditions.base import Params, Picture
from pipeline.conditions.weights import Weighted, at_resolution, resize
from pipeline.contract.errors import CnlabError
from pipeline.contract.models import loading, pick_device


class Segment(Weighted):
    """``AutoModelForSemanticSegmentation`` that takes any input size (UperNet, SegFormer), of at most 150 classes.

    With ADE20K's classes the colours are those that ControlNet's segmentation models were trained on.
    """

    name = "segment"
    default = "openmmlab/upernet-convnext-small"  # MIT; as in ControlNet 1.1's example

    def prepare(self) -> None:
        """Load the network."""
        _model(self.weights)

    def extract(self, image: Picture, params: Params) -> Picture:
        """(H, W, 3) uint8 RGB -> (H, W, 3) uint8 RGB: each pixel the colour of its class."""
        import torch
        from torch.nn.functional import interpolate

        processor, model, palette = _model(self.weights)
        resized = resize(image, *at_resolution(image, params["resolution"]))
        plain = {
            "do_resize": False,
            "do_center_crop": False,
            "return_tensors": "pt",
        }  # so that the map lies on the image
        pixels = processor(images=resized, **plain)["pixel_values"].to(pick_device())
        with torch.inference_mode():
            logits = model(pixel_values=pixels).logits.float()  # (1, classes, h, w)
            full = interpolate(logits, image.shape[:2], mode="bilinear", align_corners=False)
        return np.asarray(palette[full.argmax(1)[0].cpu().numpy()])


@cache
def _model(where: str) -> tuple[Any, Any, NDArray[np.uint8]]:
    with loading("segment", where):
        from controlnet_aux.util import ade_palette
        from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

        processor = AutoImageProcessor.from_pretrained(where)
        model = AutoModelForSemanticSegmentation.from_pretrained(where).eval().to(pick_device())
        palette = np.array(ade_palette(), np.uint8)  # (150, 3)
        if model.config.num_labels > len(palette):
            raise CnlabError(f"it has {model.config.num_labels} classes, ADE20K's palette has {len(palette)} colours")
        return processor, model, palette
