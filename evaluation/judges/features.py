"""Image features for the Frechet and kernel distances, computed once for each set of pictures."""

from __future__ import annotations

import functools
import hashlib
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.contract.errors import CnlabError
from pipeline.contract.files import atomic
from pipeline.contract.identity import sha256_file
from pipeline.contract.pictures import Pictures

if TYPE_CHECKING:
    from torch import Tensor

Features = NDArray[np.float32]  # (N, D)
IN_CACHE = 2  # pictures of 224 pixels at once on a CPU: measured 17 ms each on one thread, 20 to 26 with 4, 49 with 32
ON_DEVICE = 32


@dataclass(frozen=True)
class Extractor:
    """A network that turns pictures into features.

    name     of the network and the way pictures are brought to its size; part of every cache key and result row
    distance metric names for the Frechet and the kernel distance
    run      (B, 3, H, W) uint8 -> (B, D) float32
    """

    name: str
    distance: tuple[str, str]
    width: int
    run: Callable[[Tensor], Tensor]


def lite0_extractor(device: str = "cpu") -> Extractor:
    """ImageNet EfficientNet-Lite0, reported as ``fd_lite0`` and ``kid_lite0``: it is not Inception, so never "FID"."""
    import torch

    from evaluation.judges.lite0 import INPUT, WEIGHTS_SHA256, load_lite0
    from evaluation.threads import side_by_side

    at_once = IN_CACHE if device == "cpu" else ON_DEVICE

    @functools.cache
    def model() -> Any:  # loaded when first used: a name costs nothing
        return load_lite0().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def part(images: Tensor) -> Tensor:
        pixels = np.stack([resize(image, INPUT) for image in images.permute(0, 2, 3, 1).numpy()])
        # always as many at once: a picture's features do not depend on which others are asked for with it
        rows = np.minimum(np.arange(at_once), len(pixels) - 1)
        inputs = torch.from_numpy(pixels[rows]).permute(0, 3, 1, 2).to(device, memory_format=torch.channels_last)
        features: Tensor = model()(inputs)[: len(pixels)]
        return features.float().cpu()

    def run(images: Tensor) -> Tensor:
        model()  # by one thread
        return torch.cat(side_by_side(part, images.split(at_once), device))

    return Extractor(f"lite0-{WEIGHTS_SHA256[:12]}-pil-bicubic-{INPUT}", ("fd_lite0", "kid_lite0"), 1280, run)


def inception_extractor(weights: Path, device: str = "cpu") -> Extractor:
    """The Inception of the original FID (torch-fidelity's port, 2048-d, its own resizing), from a weights file."""
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    if not weights.is_file():
        raise CnlabError(f"{weights} does not exist; inception: takes torch-fidelity's Inception weights (.pth)")

    @functools.cache
    def model() -> Any:
        try:
            # torch-fidelity unpickles without limits: only a file that holds nothing but tensors gets that far
            torch.load(weights, map_location="cpu", weights_only=True)
            return FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(weights)).to(device).eval()
        except (RuntimeError, ValueError, TypeError, OSError, EOFError, pickle.UnpicklingError) as error:
            kind = type(error).__name__
            raise CnlabError(f"{weights} does not hold torch-fidelity's Inception weights ({kind})") from error

    def run(images: Tensor) -> Tensor:
        features: Tensor = model()(images.to(device))[0]
        return features.float().cpu()

    return Extractor(f"inception-{sha256_file(weights)[:12]}-tf-bilinear-299", ("fid", "kid"), 2048, run)


def resize(image: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """(H, W, 3) uint8 -> (size, size, 3) float32 in [0, 255], antialiased.

    Pillow's bicubic a channel at a time in floating point, so nothing is rounded back to 8 bits: "clean" resizing after
    Parmar, Zhang and Zhu, "On Aliased Resizing", CVPR 2022.
    """
    channels = [
        np.asarray(Image.fromarray(image[..., c].astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC))
        for c in range(3)
    ]
    return np.stack(channels, axis=-1).clip(0, 255)


def extract(images: Pictures, extractor: Extractor, cache: Path | None = None, batch: int = 32) -> Features:
    """(N, H, W, 3) uint8 -> (N, D) float32, kept in ``cache`` under a name made of the pictures and the network."""
    import torch

    path = None
    if cache is not None:
        content = hashlib.sha256(f"{extractor.name}\0{images.shape}\0".encode() + images.tobytes()).hexdigest()
        path = cache / f"{content[:32]}.npy"
        cached = _read_cache(path, (len(images), extractor.width))
        if cached is not None:
            return cached
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    with torch.inference_mode():
        parts = [extractor.run(pixels[start : start + batch]).numpy() for start in range(0, len(pixels), batch)]
    features = np.concatenate(parts).astype(np.float32)
    if path is not None:
        with atomic(path) as temporary, temporary.open("wb") as handle:
            np.save(handle, features, allow_pickle=False)
    return features


def _read_cache(path: Path, shape: tuple[int, int]) -> Features | None:
    """Cached features; None when absent or damaged, for then they are computed again."""
    try:
        features = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    whole = isinstance(features, np.ndarray) and features.shape == shape and features.dtype == np.float32
    return features if whole else None
