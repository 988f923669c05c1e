"""Put the trained parts together as a diffusers folder (`tabletop-sd`) and a transformers folder (`tabletop-clip`)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPImageProcessor, CLIPModel, CLIPTextModel, CLIPTokenizer, VisionTextDualEncoderModel

from trainer.prior.clip import MEAN, STD
from trainer.prior.models import IMAGE_SIZE, build_scheduler


def _tidy_configs(folder: Path) -> None:
    """Have half-precision files loaded as float32 (transformers follows the stored type) and drop local paths."""
    for path in folder.rglob("config.json"):
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)
        if "model_type" in config:
            config["dtype"] = "float32"
            for part in ("text_config", "vision_config"):
                if part in config:
                    config[part]["dtype"] = "float32"
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _unset(tokenizer: CLIPTokenizer) -> CLIPTokenizer:
    """The tokenizer without the length and padding of its last call, which would be saved with it."""
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def save_clip(clip: CLIPModel | VisionTextDualEncoderModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write a CLIP: fp16 safetensors, tokenizer, image processor."""
    clip.half().save_pretrained(folder)
    clip.float()
    _unset(tokenizer).save_pretrained(folder)
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    CLIPImageProcessor(
        size=size, crop_size=size, do_center_crop=False, image_mean=list(MEAN), image_std=list(STD)
    ).save_pretrained(folder)
    _tidy_configs(folder)


def save_sd(
    unet: UNet2DConditionModel, vae: AutoencoderKL, clip: CLIPModel, tokenizer: CLIPTokenizer, folder: Path
) -> None:
    """Write `tabletop-sd`: the text encoder is the CLIP's own text tower, as in SD 1.5."""
    shutil.rmtree(folder, ignore_errors=True)
    text_encoder = CLIPTextModel(clip.config.text_config)
    text_encoder.load_state_dict(clip.text_model.state_dict())
    pipe = StableDiffusionPipeline(
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=_unset(tokenizer),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(torch.float16)
    pipe.save_pretrained(folder)
    pipe.to(torch.float32)
    _tidy_configs(folder)
