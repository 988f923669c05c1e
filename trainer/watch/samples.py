"""Pictures of a fixed held-out set on fixed noise, as training goes on: how far they obey their maps, and grids."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel
from numpy.typing import NDArray
from torch import Tensor

from pipeline.contract.dataset import Triplets
from pipeline.contract.errors import CnlabError
from pipeline.contract.files import atomic
from pipeline.contract.pictures import Pictures, Tile, decode_image, picture_sheet
from pipeline.fidelity import annotator_of, main_measure, other_samples, score
from trainer.config import Watch
from trainer.data.encode import on_device
from trainer.data.maps import hints_of
from trainer.nets.models import Prior
from trainer.run_folder import SIGNED

SAMPLE_SEED = 4_711
PAINT_BATCH = 4  # pictures that are denoised together
DECODE_BATCH = 4  # latents that are decoded together, in fp32: SDXL's decoder overflows in fp16


@contextlib.contextmanager
def _eval_mode(model: torch.nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


class Sampler:
    """Paints the same held-out samples again and again and measures them against their maps."""

    def __init__(
        self, triplets: Triplets, prior: Prior, watch: Watch, half: torch.dtype | None = None, weights: str = ""
    ) -> None:
        """The first ``watch.fidelity_samples`` of the eval split.

        ``half``: precision of products, as in training; None: fp32. ``weights``: of the annotator that made the maps,
        where they are not its default ones.
        """
        name = triplets.condition
        count = min(watch.fidelity_samples, triplets.header["counts"]["eval"])
        rows = triplets.table(
            "eval", ["key", "image", "conditioning_image", "text", f"{name}_params"], count
        ).to_pylist()
        self.texts = [row["text"] for row in rows]
        self.images = np.stack([decode_image(row["image"]["bytes"]) for row in rows])  # (n, S, S, 3) uint8
        self.maps = np.stack([decode_image(row["conditioning_image"]["bytes"]) for row in rows])
        self.hints = hints_of(self.maps, name in SIGNED)
        self.params = [json.loads(row[f"{name}_params"]) for row in rows]
        self.keys = [row["key"] for row in rows]
        self.annotator, reason = annotator_of(name, self.params, weights)
        if reason:
            print(f"note: fidelity is not measured: {reason}", flush=True)
        self.prior, self.watch, self.half = prior, watch, half
        generator = torch.Generator().manual_seed(SAMPLE_SEED)
        side = self.images.shape[1] // 2 ** (len(prior.vae.config.block_out_channels) - 1)
        self.noise = torch.randn((count, prior.unet.config.in_channels, side, side), generator=generator)

    @property
    def measure(self) -> str:
        """What fidelity means here; "" where the condition cannot be measured on a picture."""
        if self.annotator is None or len(self.texts) < 2:
            return ""
        return f"{self.annotator.name} {main_measure(self.annotator)}"

    @torch.no_grad()  # not inference_mode: what a net caches while painting must stay usable in training
    def paint(self, control: ControlNetModel, scale: float = 1.0) -> Pictures:
        """One picture a held-out sample, (n, S, S, 3) uint8, through the public pipeline.

        ``scale`` multiplies the ControlNet's outputs; 0 paints with the prior alone.
        """
        pipe, watch = self.prior.pipeline(control), self.watch
        device = self.prior.unet.device
        mixed = self.prior.unet.dtype != torch.float32
        autocast = torch.autocast(device.type, self.half) if self.half is not None else contextlib.nullcontext()
        parts = []
        for first in range(0, len(self.texts), PAINT_BATCH):
            own = slice(first, first + PAINT_BATCH)
            with _eval_mode(control), autocast:
                latents = pipe(
                    **self._text(self.texts[own]),
                    image=self.hints[own],
                    latents=self.noise[own].to(device),
                    height=self.images.shape[1],
                    width=self.images.shape[1],
                    num_inference_steps=watch.sampling_steps,
                    guidance_scale=watch.guidance,
                    controlnet_conditioning_scale=scale,
                    output_type="latent",
                ).images
            parts.append(decode(self.prior, latents.float(), device))
        pictures = np.concatenate(parts)
        if not np.isfinite(pictures).all():
            raise CnlabError(
                "the sample pictures hold values that are no numbers; lower --lr, or take --precision "
                + ("bf16 or fp32" if mixed else "fp32")
            )
        return (pictures * 255).round().clip(0, 255).astype(np.uint8)

    def _text(self, texts: list[str]) -> dict[str, Tensor]:
        """States of the prompts and of "" as the public pipeline makes them (zeros for "" in SDXL)."""
        prior = self.prior
        device = prior.text_encoders[0].device
        size = self.images.shape[1]
        words, empty = (
            prior.text_conditions(prior.encode_text(prior.tokenize(list(t)).to(device)).to(prior.unet.device), size)
            for t in (texts, [""] * len(texts))
        )
        call = {"prompt_embeds": words["states"], "negative_prompt_embeds": empty["states"]}
        if prior.xl:
            call |= {"pooled_prompt_embeds": words["pooled"], "negative_pooled_prompt_embeds": empty["pooled"]}
            call |= {name: torch.zeros_like(value) for name, value in call.items() if name.startswith("negative")}
        return call

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
        count = min(self.watch.grid, len(pictures))
        stacks = zip(self.maps[:count], pictures[:count], self.images[:count], strict=True)
        tiles = [Tile(stack, text=text) for stack, text in zip(stacks, self.texts[:count], strict=True)]
        with atomic(path) as temporary:
            picture_sheet(tiles, count, pictures.shape[1], gap=2, label=46).save(temporary, "PNG")


def decode(prior: Prior, latents: Tensor, device: torch.device) -> NDArray[np.float32]:
    """Latents (N, C, h, w) fp32, scaled -> pictures (N, H, W, 3) in [0, 1], a few at a time, in the decoder's fp32."""
    config: Any = prior.vae.config
    latents = latents / config.scaling_factor
    with on_device(prior.vae, device):
        parts = [prior.vae.decode(part).sample for part in latents.split(DECODE_BATCH)]
    pixels = (torch.cat(parts) * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
    return np.asarray(pixels, dtype=np.float32)
