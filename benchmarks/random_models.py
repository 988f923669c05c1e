"""Stable Diffusion with random weights in diffusers' layout, and triplets of the right shapes for it.

Speed and memory depend on shapes alone, so a GPU without a hub can be measured.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import datasets
import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks.flops import sd15_unet
from pipeline.contract.pictures import encode_jpeg, encode_png
from pipeline.tabletop import render, sample_scene
from trainer.data.items import Items, TextStates
from trainer.data.maps import Maps
from trainer.nets.models import Prior
from trainer.prior.models import build_tokenizer

DISTINCT = 16  # different pictures; the others are copies of them, which decode as slowly


@dataclass(frozen=True)
class Shape:
    """What decides a model's cost."""

    size: int  # pixels
    tokens: int  # of a caption
    hint: tuple[int, ...]  # channels of ControlNet's hint encoder
    unet: dict[str, Any]
    vae: dict[str, Any]
    text: dict[str, Any]


#: The configs published with SD 1.5; 16, 32, 96, 256 from the released ControlNet.
SD15 = Shape(
    512, 77, (16, 32, 96, 256),
    unet={},
    vae={"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "norm_num_groups": 32},
    text={"vocab_size": 49_408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
          "num_attention_heads": 12, "hidden_act": "quick_gelu"},
)  # fmt: skip
#: The same four levels and thirteen outputs, for a dry run in seconds.
TINY = Shape(
    64, 32, (8, 8, 8, 8),
    unet={"sample_size": 8, "block_out_channels": (8, 16, 16, 16), "norm_num_groups": 8, "layers_per_block": 1,
          "cross_attention_dim": 16, "attention_head_dim": 2},
    vae={"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 8},
    text={"vocab_size": 1024, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
          "num_attention_heads": 2},
)  # fmt: skip


def write_model(folder: Path, shape: Shape) -> None:
    """A pipeline folder; 4.3 GB for `SD15`."""
    torch.manual_seed(0)
    build_tokenizer([sample_scene(0, i).caption for i in range(20)], folder / "words")
    settings = folder / "words" / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "model_max_length": shape.tokens}))
    tokenizer = CLIPTokenizer.from_pretrained(folder / "words")
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4,
        sample_size=shape.size, **shape.vae,
    )  # fmt: skip
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(CLIPTextConfig(max_position_embeddings=shape.tokens, **shape.text, **ids)),
        tokenizer=tokenizer,
        unet=sd15_unet(**shape.unet),
        scheduler=DDPMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)


@lru_cache(maxsize=2)
def _pictures(size: int) -> list[tuple[bytes, bytes, str]]:
    """Image as JPEG, edges as one-bit PNG, caption."""
    samples = []
    for i in range(DISTINCT):
        scene = sample_scene(0, i)
        image = render(scene, size, 1).image
        edges = np.asarray(cv2.Canny(image, 100, 200), np.uint8)
        samples.append((encode_jpeg(image), encode_png(edges, binary=True), scene.caption))
    return samples


def make_items(prior: Prior, shape: Shape, count: int = 256, text_cache: bool = False) -> Items:
    """``count`` samples as `trainer.data.items.load_items` would hold them, latents and text states being noise."""
    rng, side = np.random.default_rng(0), shape.size // 8
    pictures = (_pictures(shape.size) * -(-count // DISTINCT))[:count]
    states = TextStates(
        rng.standard_normal((count, prior.text_width)).astype(np.float16) if text_cache else np.empty(0, np.float16),
        torch.zeros(prior.text_width),
    )
    ends = np.cumsum([len(edges) for _, edges, _ in pictures])
    data = np.frombuffer(b"".join(edges for _, edges, _ in pictures), np.uint8)
    return Items(
        np.arange(count),
        rng.uniform(0.1, 1, (count, 8, side, side)).astype(np.float16),
        Maps(data, np.stack([np.concatenate([[0], ends[:-1]]), ends], 1)),
        prior.tokenize([caption for *_, caption in pictures]),
        prior.tokenize([""])[0],
        states=states if text_cache else None,
    )


def write_triplets(folder: Path, shape: Shape, count: int) -> Path:
    """The same pictures as one Parquet shard that `datasets` loads; returns the folder."""
    folder.mkdir(parents=True)
    picture = datasets.Image()
    features = datasets.Features({"image": picture, "conditioning_image": picture, "text": datasets.Value("string")})
    chosen = (_pictures(shape.size) * -(-count // DISTINCT))[:count]
    columns = {
        "image": [{"bytes": image, "path": None} for image, _, _ in chosen],
        "conditioning_image": [{"bytes": edges, "path": None} for _, edges, _ in chosen],
        "text": [caption for *_, caption in chosen],
    }
    datasets.Dataset.from_dict(columns, features=features).to_parquet(str(folder / "train-00000.parquet"))
    return folder


def meta_unet(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """The same architecture on the meta device, where counting costs nothing."""
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(unet.config)


def meta_vae(vae: AutoencoderKL) -> AutoencoderKL:
    """The same for an autoencoder."""
    with torch.device("meta"):
        return AutoencoderKL.from_config(vae.config)
