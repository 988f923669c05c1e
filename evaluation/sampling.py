"""Pictures from a pipeline: seeds, recipe, captions and maps in, pixels out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.contract.pictures import Pictures, to_uint8

if TYPE_CHECKING:
    from torch import Tensor


def seed_of(key: str, group: int) -> int:
    """Seed of an image's noise: 63 bits of sha256(key, group), so it is the same in every arm and every run."""
    digest = hashlib.sha256(f"{key}\0{group}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


VERSION = "1"  # of the recipe below: scheduler, noise, rounding


@dataclass(frozen=True)
class Recipe:
    """What decides the pixels beside run, arm and samples. No negative prompt is used."""

    steps: int
    guidance: float
    dtype: str = "float32"
    scheduler: str = "UniPCMultistepScheduler"
    version: str = VERSION


class Painter:
    """A diffusers pipeline behind one call: captions, maps and seeds to pictures."""

    def __init__(self, model: str, checkpoint: Path | None, recipe: Recipe, device: str) -> None:
        """``checkpoint`` is the ControlNet's folder (any variant), None for the prior alone."""
        import torch

        from trainer.nets.models import load_pipeline

        dtype = getattr(torch, recipe.dtype)
        pipe = load_pipeline(model, checkpoint, dtype)
        self.pipe, self.recipe, self.dtype, self.controlled = pipe.to(device), recipe, dtype, checkpoint is not None

    def __call__(self, texts: list[str], maps: Pictures, seeds: list[int]) -> Pictures:
        """B captions, (B, S, S, 3) uint8 maps and B seeds -> (B, S, S, 3) uint8 pictures."""
        import torch

        size = maps.shape[1]
        shape = (self.pipe.unet.config.in_channels, size // self.pipe.vae_scale_factor)
        call: dict[str, Any] = {"prompt": texts, "latents": _noise(seeds, *shape).to(self.pipe.device, self.dtype)}
        if self.controlled:
            # (B, 3, S, S) float in [0, 1], what the pipeline's own processor makes of a PIL picture
            call["image"] = torch.from_numpy(maps).permute(0, 3, 1, 2).to(self.dtype) / 255
        found = self.pipe(
            **call,
            height=size,
            width=size,
            num_inference_steps=self.recipe.steps,
            guidance_scale=self.recipe.guidance,
            output_type="np",
        )
        return to_uint8(found.images, "generation")

    def autoencode(self, images: Pictures, batch: int) -> Pictures:
        """(N, S, S, 3) uint8 through the autoencoder and back: the best its decoder could do."""
        import torch

        parts = []
        with torch.inference_mode():
            for start in range(0, len(images), batch):
                pixels = torch.from_numpy(images[start : start + batch]).permute(0, 3, 1, 2)
                pixels = (pixels / 127.5 - 1).to(self.pipe.device, self.dtype)
                latents = self.pipe.vae.encode(pixels).latent_dist.mode()
                decoded = self.pipe.vae.decode(latents).sample.float() / 2 + 0.5
                parts.append(to_uint8(decoded.permute(0, 2, 3, 1).cpu().numpy(), "autoencoder"))
        return np.concatenate(parts)


def _noise(seeds: list[int], channels: int, side: int) -> Tensor:
    """(B, channels, side, side) float32; each image has its own generator on the CPU, whatever batch and device."""
    import torch

    draws = [torch.randn((channels, side, side), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(draws)
