"""Pictures of a fixed held-out set on fixed noise, as training goes on: how far they obey their maps, and grids."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import ControlNetModel
from numpy.typing import NDArray

from pipeline.contract.dataset import Triplets
from pipeline.contract.files import atomic
from pipeline.contract.pictures import Pictures, Tile, decode_image, picture_sheet
from pipeline.fidelity import annotator_of, main_measure, other_samples, score
from trainer.config import Recipe
from trainer.nets.models import Prior

SAMPLE_SEED = 4_711
DRAW_BATCH = 16


@contextlib.contextmanager
def _eval_mode(model: torch.nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


class Sampler:
    """Draws the same held-out samples again and again and measures them against their maps."""

    def __init__(self, triplets: Triplets, prior: Prior, recipe: Recipe) -> None:
        """The first ``recipe.fidelity_samples`` of the eval split."""
        name = triplets.condition
        count = min(recipe.fidelity_samples, triplets.header["counts"]["eval"])
        rows = triplets.table(
            "eval", ["key", "image", "conditioning_image", "text", f"{name}_params"], count
        ).to_pylist()
        self.texts = [row["text"] for row in rows]
        self.images = np.stack([decode_image(row["image"]["bytes"]) for row in rows])  # (n, S, S, 3) uint8
        self.maps = np.stack([decode_image(row["conditioning_image"]["bytes"]) for row in rows])
        self.params = [json.loads(row[f"{name}_params"]) for row in rows]
        self.keys = [row["key"] for row in rows]
        self.annotator, reason = annotator_of(name, self.params)
        if reason:
            print(f"note: fidelity is not measured: {reason}", flush=True)
        self.prior, self.recipe = prior, recipe
        generator = torch.Generator().manual_seed(SAMPLE_SEED)
        side = self.images.shape[1] // 2 ** (len(prior.vae.config.block_out_channels) - 1)
        self.noise = torch.randn((count, prior.unet.config.in_channels, side, side), generator=generator)

    @property
    def measure(self) -> str:
        """What fidelity means here; "" where the condition cannot be measured on a picture."""
        if self.annotator is None or len(self.texts) < 2:
            return ""
        return f"{self.annotator.name} {main_measure(self.annotator)}"

    @torch.no_grad()  # not inference_mode: what a net caches while drawing must stay usable in training
    def draw(self, control: ControlNetModel, scale: float = 1.0) -> Pictures:
        """One picture a held-out sample, (n, S, S, 3) uint8, through the public pipeline.

        ``scale`` multiplies the ControlNet's outputs; 0 draws with the prior alone.
        """
        pipe, recipe = self.prior.pipeline(control), self.recipe
        device = self.prior.unet.device
        mixed = self.prior.unet.dtype != torch.float32
        drawn = []
        cast = torch.autocast(device.type, self.prior.unet.dtype if mixed else torch.bfloat16, enabled=mixed)
        with _eval_mode(control), cast:
            for first in range(0, len(self.texts), DRAW_BATCH):
                own = slice(first, first + DRAW_BATCH)
                images = pipe(
                    prompt=self.texts[own],
                    # float in [0, 1], what the pipeline's own processor makes of a PIL picture
                    image=torch.from_numpy(self.maps[own]).permute(0, 3, 1, 2).float() / 255,
                    latents=self.noise[own].to(device),
                    num_inference_steps=recipe.sampling_steps,
                    guidance_scale=recipe.guidance,
                    controlnet_conditioning_scale=scale,
                    output_type="np",
                ).images
                drawn.append((images * 255).round().clip(0, 255).astype(np.uint8))
        return np.concatenate(drawn)

    def fidelity(self, pictures: Pictures) -> dict[str, NDArray[np.float64]]:
        """Scores (n,) of the pictures against their own maps (``true``) and against other samples' (``shuffled``).

        The second is the chance floor: what any picture scores on any map. Empty where nothing can be measured.
        """
        if not self.measure:
            return {}
        assert self.annotator is not None
        own, other = np.arange(len(pictures)), other_samples(self.keys)
        return {
            arm: score(pictures, self.maps[order], [self.params[i] for i in order], self.annotator)
            for arm, order in (("true", own), ("shuffled", other))
        }

    def grid(self, pictures: Pictures, path: Path) -> None:
        """Write a grid PNG of the first pictures: maps, samples, real images, captions below."""
        count = min(self.recipe.grid, len(pictures))
        stacks = zip(self.maps[:count], pictures[:count], self.images[:count], strict=True)
        tiles = [Tile(stack, text=text) for stack, text in zip(stacks, self.texts[:count], strict=True)]
        with atomic(path) as temporary:
            picture_sheet(tiles, count, pictures.shape[1], gap=2, label=46).save(temporary, "PNG")
