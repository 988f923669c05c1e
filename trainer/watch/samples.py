"""Pictures of a fixed held-out set on fixed noise, as training goes on: how far they obey their maps, and grids."""

from __future__ import annotations

import contextlib
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from skimage.metrics import structural_similarity

from pipeline.conditions import Condition, get_condition
from pipeline.contract.dataset import Triplets
from pipeline.contract.errors import CnlabError
from pipeline.contract.files import atomic
from pipeline.contract.pictures import decode_image
from pipeline.fidelity import fidelity as edge_fidelity
from trainer.config import Recipe
from trainer.nets.models import Prior

SAMPLE_SEED = 4_711
DRAW_BATCH = 16
RADIUS = 2.0  # px: edges of a picture may lie this far from its map's

Pictures = NDArray[np.uint8]


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
        rows = triplets.table("eval", ["image", "conditioning_image", "text", f"{name}_params"], count).to_pylist()
        self.texts = [row["text"] for row in rows]
        self.images = np.stack([decode_image(row["image"]["bytes"]) for row in rows])  # (n, S, S, 3) uint8
        self.maps = np.stack([decode_image(row["conditioning_image"]["bytes"]) for row in rows])
        self.params = [json.loads(row[f"{name}_params"]) for row in rows]
        self.extractor = _extractor(name, self.params)
        self.prior, self.recipe = prior, recipe
        generator = torch.Generator().manual_seed(SAMPLE_SEED)
        side = self.images.shape[1] // 2 ** (len(prior.vae.config.block_out_channels) - 1)
        self.noise = torch.randn((count, prior.unet.config.in_channels, side, side), generator=generator)

    @property
    def measure(self) -> str:
        """What fidelity means here; "" where the condition cannot be measured on a picture."""
        if self.extractor is None or len(self.texts) < 2:
            return ""
        return f"{self.extractor.name} F1 at {RADIUS:g} px" if self.extractor.binary else f"{self.extractor.name} SSIM"

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
        other = np.roll(np.arange(len(pictures)), 1)
        return {"true": self._score(pictures, np.arange(len(pictures))), "shuffled": self._score(pictures, other)}

    def _score(self, pictures: Pictures, given: NDArray[np.int64]) -> NDArray[np.float64]:
        assert self.extractor is not None
        maps, params = self.maps[given], [self.params[i] for i in given]
        if self.extractor.binary:
            return edge_fidelity(pictures, maps, params, self.extractor, (RADIUS,))[RADIUS]
        found = [self.extractor.extract(p, drawn) for p, drawn in zip(pictures, params, strict=True)]
        return np.array([_ssim(a, b) for a, b in zip(found, maps, strict=True)])

    def grid(self, pictures: Pictures, path: Path) -> None:
        """Write a grid PNG of the first pictures: maps, samples, real images, captions below."""
        count = min(self.recipe.grid, len(pictures))
        side = pictures.shape[1]
        sheet = Image.new("RGB", (side * count, side * 3 + 46), "white")
        pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(9)
        for i in range(count):
            for j, tile in enumerate((self.maps[i], pictures[i], self.images[i])):
                sheet.paste(Image.fromarray(tile), (i * side, j * side))
            plain = "".join(c if c.isprintable() else " " for c in self.texts[i])
            text = "\n".join(textwrap.wrap(plain, max(side // 5, 10))[:4])
            pen.multiline_text((i * side + 2, side * 3 + 2), text, fill="black", font=font, spacing=1)
        with atomic(path) as temporary:
            sheet.save(temporary, "PNG")


def _extractor(name: str, params: list[dict[str, Any]]) -> Condition | None:
    """What made the maps, to be run on pictures; None for given maps and where its weights are absent."""
    if any(drawn.get("given") for drawn in params):
        return None
    try:
        found = get_condition(name)
        found.prepare()
    except CnlabError as error:
        print(f"note: fidelity is not measured: {error}", flush=True)
        return None
    return found


def _ssim(found: Pictures, target: Pictures) -> float:
    """Mean structural similarity of a map measured on a picture, (H, W) or (H, W, 3), and the map asked for (H, W, 3).

    Wang et al. 2004, as ControlNet++ scores soft edges (Li et al., ECCV 2024, section 4.1, there with several scales).
    """
    if found.ndim == 2:
        found = np.repeat(found[..., None], 3, axis=2)
    return float(structural_similarity(found, target, channel_axis=2, data_range=255))
