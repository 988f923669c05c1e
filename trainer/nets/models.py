"""The frozen prior: Stable Diffusion 1.x, 2.x or XL, from a diffusers folder or a hub name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDPMScheduler,
    DiffusionPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from pipeline.contract.errors import CnlabError, first_line
from trainer.nets.base import PLAIN, WEIGHTS, BaseOptions, model_folder
from trainer.nets.control import load_control


def resolve_clip(name: str) -> str:
    """``tabletop`` -> the shipped judge, no part of the prior; a local folder or a hub name as it is."""
    return str(WEIGHTS / "tabletop-judge") if name == "tabletop" else name


@dataclass
class Prior:
    """A frozen latent diffusion model, every part in eval mode without gradients."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    scheduler: DDPMScheduler
    tokenizers: tuple[CLIPTokenizer, ...]  # one, or the two of SDXL
    text_encoders: tuple[CLIPTextModel | CLIPTextModelWithProjection, ...]

    @property
    def xl(self) -> bool:
        """SDXL: two text encoders, pooled states and sizes as further conditions."""
        return len(self.text_encoders) == 2

    @property
    def text_width(self) -> int:
        """Numbers `encode_text` returns for a caption."""
        length = self.tokenizers[0].model_max_length
        width = sum(encoder.config.hidden_size for encoder in self.text_encoders)
        return int(length * width + (self.text_encoders[1].config.projection_dim if self.xl else 0))

    def tokenize(self, texts: list[str]) -> torch.Tensor:
        """Padded and truncated ids, (B, T, L) int64, T being the number of text encoders."""
        ids = [
            tokenizer(
                texts,
                padding="max_length",
                truncation=True,
                max_length=self.tokenizers[0].model_max_length,
                return_tensors="pt",
            ).input_ids
            for tokenizer in self.tokenizers
        ]
        return torch.stack(ids, 1)

    @torch.no_grad()
    def encode_text(self, ids: torch.Tensor) -> torch.Tensor:
        """(B, T, L) int64 ids -> (B, `text_width`) states and, for SDXL, the pooled state behind them.

        SD 1.x and 2.x read the last hidden state; SDXL the last but one of both encoders, side by side.
        """
        if not self.xl:
            states = self.text_encoders[0](input_ids=ids[:, 0]).last_hidden_state
            return torch.as_tensor(states.flatten(1))
        outputs = [
            encoder(input_ids=ids[:, i], output_hidden_states=True) for i, encoder in enumerate(self.text_encoders)
        ]
        states = torch.cat([out.hidden_states[-2] for out in outputs], 2)
        return torch.cat([states.flatten(1), outputs[1].text_embeds], 1)

    def text_conditions(self, text: torch.Tensor, size: int) -> dict[str, torch.Tensor]:
        """`encode_text`'s rows -> ``states`` (B, L, D) and, for SDXL, ``pooled`` (B, P) and ``time_ids`` (B, 6).

        ``size`` in pixels stands for original and target size, with no crop, as in diffusers' SDXL training script.
        """
        length = self.tokenizers[0].model_max_length
        if not self.xl:
            return {"states": text.unflatten(1, (length, -1))}
        pooled = self.text_encoders[1].config.projection_dim
        ids = text.new_full((len(text), 6), size)
        ids[:, 2:4] = 0  # filled on the device: nothing waits for it
        return {
            "states": text[:, :-pooled].unflatten(1, (length, -1)),
            "pooled": text[:, -pooled:],
            "time_ids": ids,
        }

    def pipeline(self, control: ControlNetModel) -> Any:
        """The public ControlNet pipeline on these very parts, with UniPC as scheduler."""
        parts: dict[str, Any] = {
            "vae": self.vae,
            "unet": self.unet,
            "controlnet": control,
            "tokenizer": self.tokenizers[0],
            "text_encoder": self.text_encoders[0],
            "scheduler": UniPCMultistepScheduler.from_config(self.scheduler.config),
            "feature_extractor": None,
        }
        if self.xl:
            second = {"tokenizer_2": self.tokenizers[1], "text_encoder_2": self.text_encoders[1]}
            pipe = StableDiffusionXLControlNetPipeline(**parts, **second, add_watermarker=False)
        else:
            pipe = StableDiffusionControlNetPipeline(**parts, safety_checker=None, requires_safety_checker=False)
        pipe.set_progress_bar_config(disable=True)
        return pipe


def load_prior(name: str, device: torch.device, options: BaseOptions = PLAIN) -> Prior:
    """Load every part of `model_folder` in float32; raises CnlabError when the model cannot be had."""
    where = model_folder(name, options)
    if name == "tabletop" and not Path(where).is_dir():
        raise CnlabError(f"{where} is missing: the package was installed without its weights; run make prior")
    full = {"torch_dtype": torch.float32, "use_safetensors": True}
    try:
        xl = "text_encoder_2" in DiffusionPipeline.load_config(where)
        unet = UNet2DConditionModel.from_pretrained(where, subfolder="unet", **full)
        vae = AutoencoderKL.from_pretrained(where, subfolder="vae", **full)
        scheduler = DDPMScheduler.from_pretrained(where, subfolder="scheduler")
        kinds = {"": CLIPTextModel} | ({"_2": CLIPTextModelWithProjection} if xl else {})
        tokenizers = tuple(CLIPTokenizer.from_pretrained(where, subfolder=f"tokenizer{end}") for end in kinds)
        if unet.config.in_channels != vae.config.latent_channels:
            raise CnlabError(
                f"model {name!r}: its UNet takes {unet.config.in_channels} channels, its autoencoder gives "
                f"{vae.config.latent_channels} (made for inpainting or editing?); take one that paints from text alone"
            )
        encoders = tuple(
            kind.from_pretrained(where, subfolder=f"text_encoder{end}", dtype=torch.float32)
            for end, kind in kinds.items()
        )
    except (OSError, ValueError) as error:
        first = first_line(error)
        raise CnlabError(f"model {name!r} is neither a diffusers folder nor reachable on the hub: {first}") from error
    for part in (unet, vae, *encoders):
        part.requires_grad_(False).eval().to(device)
    return Prior(unet, vae, scheduler, tokenizers, encoders)


def load_pipeline(model: str, checkpoint: Path | None, dtype: torch.dtype) -> Any:
    """The public pipeline of a `model_folder`, with the ControlNet of a checkpoint's folder or, for None, without.

    Any variant; a checkpoint that trained the prior's decoder brings its own ``unet/``. Raises CnlabError.
    """
    common: dict[str, Any] = {"dtype": dtype, "use_safetensors": True}
    try:
        xl = "text_encoder_2" in DiffusionPipeline.load_config(model)
        common |= {"add_watermarker": False} if xl else {"safety_checker": None, "requires_safety_checker": False}
        if checkpoint is None:
            plain = StableDiffusionXLPipeline if xl else StableDiffusionPipeline
            pipe: Any = plain.from_pretrained(model, **common)
        else:
            if (checkpoint / "unet").is_dir():
                common["unet"] = UNet2DConditionModel.from_pretrained(checkpoint / "unet", torch_dtype=dtype)
            kind = StableDiffusionXLControlNetPipeline if xl else StableDiffusionControlNetPipeline
            pipe = kind.from_pretrained(model, controlnet=load_control(checkpoint, dtype), **common)
    except (OSError, ValueError) as error:
        first = first_line(error)
        raise CnlabError(f"the prior {model!r} or {checkpoint} cannot be loaded: {first}") from error
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe
