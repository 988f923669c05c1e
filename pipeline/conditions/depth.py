"""Depth by a network: DPT/MiDaS, Depth Anything and their kin, through transformers."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.conditions.base import Params, Picture
from pipeline.conditions.weights import Weighted
from pipeline.contract.errors import CnlabError
from pipeline.contract.models import loading, pick_device

RESIZABLE = ("dpt", "depth_anything")  # model types that run at any multiple of their patch; others at their own size
INVERSE = ("dpt", "depth_anything", "depth_pro")  # model types that give inverse depth,
METRIC = ("glpn",)  # and distances; of others it is not known


class Depth(Weighted):
    """``AutoModelForDepthEstimation`` of the types in `INVERSE` and `METRIC`.

    Near is white, as in MiDaS's maps and in rendered depth.
    """

    name = "depth"
    default = "depth-anything/Depth-Anything-V2-Small-hf"  # Apache-2.0

    def prepare(self) -> None:
        """Load the network."""
        _model(self.weights)

    def extract(self, image: Picture, params: Params) -> Picture:
        """(H, W, 3) uint8 RGB -> (H, W) uint8: inverse depth, nearest point 255, farthest 0."""
        return np.rint(255 * inverse_depth(self.weights, image, params["resolution"])).astype(np.uint8)


def inverse_depth(where: str, image: Picture, resolution: int) -> NDArray[np.float32]:
    """The network's inverse depth, stretched to [0, 1]; 0 throughout where it is constant.

    (H, W, 3) uint8 RGB -> (H, W) float32
    """
    import torch
    from torch.nn.functional import interpolate

    processor, model = _model(where)
    size = {"size": {"height": resolution, "width": resolution}} if model.config.model_type in RESIZABLE else {}
    pixels = processor(images=np.array(image), return_tensors="pt", **size)["pixel_values"].to(pick_device())
    with torch.inference_mode():
        prediction = model(pixel_values=pixels).predicted_depth[:, None].float()  # (1, 1, h, w)
        full = interpolate(prediction, image.shape[:2], mode="bicubic", align_corners=False)[0, 0].cpu().numpy()
    if _is_metric(model.config):
        full = 1 / np.maximum(full, 1e-3)  # a millimetre, for what lies at the lens
    low, span = float(full.min()), float(np.ptp(full))
    return np.asarray((full - low) / (span or 1), dtype=np.float32)


def _is_metric(config: Any) -> bool:
    return config.model_type in METRIC or getattr(config, "depth_estimation_type", "relative") == "metric"


@cache
def _model(where: str) -> tuple[Any, Any]:
    with loading("depth", where):
        from transformers import AutoImageProcessor, AutoModelForDepthEstimation

        model = AutoModelForDepthEstimation.from_pretrained(where)
        if model.config.model_type not in INVERSE + METRIC:
            raise CnlabError(f"of type {model.config.model_type!r} it is not known whether near is large or small")
        return AutoImageProcessor.from_pretrained(where), model.eval().to(pick_device())
