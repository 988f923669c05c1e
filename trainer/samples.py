"""Sample grids on fixed noise: map, sample, real image, one column a held-out sample."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, UniPCMultistepScheduler
from PIL import Image, ImageDraw, ImageFont

from pipeline.dataset import Triplets
from pipeline.io import atomic
from pipeline.shards import decode_image
from trainer.models import Prior

SAMPLE_SEED, SAMPLE_STEPS, GUIDANCE = 4_711, 12, 3.0


@contextlib.contextmanager
def _eval_mode(model: torch.nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


class Sampler:
    """Draws the same held-out samples again and again as training goes on."""

    def __init__(self, triplets: Triplets, prior: Prior, count: int) -> None:
        columns = ["image", "conditioning_image", "text"]
        rows = triplets.table("eval", columns, min(count, triplets.header["counts"]["eval"])).to_pylist()
        self.texts = [r["text"] for r in rows]
        self.images, self.maps = (
            [Image.fromarray(decode_image(r[c]["bytes"])) for r in rows] for c in ("image", "conditioning_image")
        )
        self.prior = prior
        generator = torch.Generator().manual_seed(SAMPLE_SEED)
        side = self.images[0].width // 2 ** (len(prior.vae.config.block_out_channels) - 1)
        self.noise = torch.randn((len(rows), prior.unet.config.in_channels, side, side), generator=generator)

    @torch.inference_mode()
    def draw(self, control: ControlNetModel) -> list[Image.Image]:
        """One picture a held-out sample, through the public pipeline."""
        prior = self.prior
        pipe = StableDiffusionControlNetPipeline(
            vae=prior.vae,
            text_encoder=prior.text_encoder,
            tokenizer=prior.tokenizer,
            unet=prior.unet,
            controlnet=control,
            scheduler=UniPCMultistepScheduler.from_config(prior.scheduler.config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipe.set_progress_bar_config(disable=True)
        with _eval_mode(control):
            images: list[Image.Image] = pipe(
                prompt=self.texts,
                image=self.maps,
                latents=self.noise.to(prior.unet.device),
                num_inference_steps=SAMPLE_STEPS,
                guidance_scale=GUIDANCE,
            ).images
        return images

    def grid(self, control: ControlNetModel, path: Path) -> None:
        """Write a grid PNG: maps, samples, real images, captions below."""
        drawn = self.draw(control)
        side = self.images[0].width
        sheet = Image.new("RGB", (side * len(drawn), side * 3 + 46), "white")
        pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(9)
        for i, column in enumerate(zip(self.maps, drawn, self.images, strict=True)):
            for j, tile in enumerate(column):
                sheet.paste(tile, (i * side, j * side))
            plain = "".join(c if c.isprintable() else " " for c in self.texts[i])
            text = "\n".join(textwrap.wrap(plain, max(side // 5, 10))[:4])
            pen.multiline_text((i * side + 2, side * 3 + 2), text, fill="black", font=font, spacing=1)
        with atomic(path) as temporary:
            sheet.save(temporary, "PNG")
