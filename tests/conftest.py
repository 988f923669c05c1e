from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from pipeline.build.shards import write_shard
from pipeline.contract.files import write_json
from pipeline.contract.identity import sha256_file
from pipeline.contract.pictures import encode_png
from pipeline.tabletop import render, sample_scene

SIZE = 64
EVAL, TRAIN = 6, 8


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def dataset_row(split: str, rank: int) -> dict[str, Any]:
    index = rank + (0 if split == "eval" else 1000)
    scene = sample_scene(0, index)
    image = render(scene, SIZE, 1).image
    params = {"low": 60 + rank, "high": 150 + rank}
    edges = encode_png(np.asarray(cv2.Canny(image, params["low"], params["high"]), np.uint8), binary=True)
    return {
        "image": {"bytes": encode_png(image), "path": None},
        "text": scene.caption,
        "conditioning_image": {"bytes": edges, "path": None},
        "canny": {"bytes": edges, "path": None},
        "key": f"scene-{index}",
        "split": split,
        "source": "tabletop",
        "caption_source": "template",
        "rank": rank,
        "width": SIZE,
        "height": SIZE,
        "brightness": 0.5,
        "sharpness": 0.1,
        "canny_params": json.dumps(params),
    }


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "tiny"
    shards = []
    for split, rows in (("eval", EVAL), ("train", TRAIN)):
        file = f"{split}-00000.parquet"
        write_shard(folder / file, [dataset_row(split, i) for i in range(rows)], ("canny",), ("dataset-mark", file), [])
        shards.append({"file": file, "rows": rows, "split": split, "sha256": sha256_file(folder / file)})
    header = {
        "name": "tiny",
        "fingerprint": "dataset-mark",
        "conditions": ["canny"],
        "image_size": SIZE,
        "counts": {"train": TRAIN, "eval": EVAL},
        "shards": shards,
    }
    write_json(folder / "dataset.json", header)
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Stable Diffusion in diffusers' layout, small enough to paint in moments."""
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from trainer.prior.models import build_tokenizer

    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("models")
    tokenizer = build_tokenizer([sample_scene(0, i).caption for i in range(20)], root / "tokenizer")
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=32, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=SIZE // 8, block_out_channels=(8, 16, 16, 16), norm_num_groups=8, layers_per_block=1,
        cross_attention_dim=16, attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), norm_num_groups=8, layers_per_block=1, latent_channels=4, sample_size=SIZE,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    pipe = StableDiffusionPipeline(
        vae=vae, text_encoder=CLIPTextModel(text), tokenizer=tokenizer, unet=unet,
        scheduler=PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
        ),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.save_pretrained(root / "sd")
    return root / "sd"


@pytest.fixture(scope="session")
def xl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random SDXL in diffusers' layout: two text encoders, pooled states and sizes, three levels."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from trainer.prior.models import build_tokenizer

    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("models")
    tokenizer = build_tokenizer([sample_scene(0, i).caption for i in range(20)], root / "tokenizer")
    text = {
        "vocab_size": len(tokenizer), "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 32,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    first = CLIPTextConfig(hidden_size=16, intermediate_size=32, projection_dim=16, **text)
    second = CLIPTextConfig(hidden_size=24, intermediate_size=32, projection_dim=12, **text)
    unet = UNet2DConditionModel(
        sample_size=SIZE // 4, block_out_channels=(8, 16, 16), norm_num_groups=8, layers_per_block=2,
        cross_attention_dim=40, attention_head_dim=(1, 2, 2), transformer_layers_per_block=(1, 1, 2),
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=12 + 6 * 8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), norm_num_groups=8, layers_per_block=1, latent_channels=4, sample_size=SIZE,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, force_upcast=False,
    )  # fmt: skip
    pipe = StableDiffusionXLPipeline(
        vae=vae, text_encoder=CLIPTextModel(first), text_encoder_2=CLIPTextModelWithProjection(second),
        tokenizer=tokenizer, tokenizer_2=tokenizer, unet=unet,
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        add_watermarker=False,
    )  # fmt: skip
    pipe.save_pretrained(root / "xl")
    return root / "xl"


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import CLIPConfig, CLIPModel

    from trainer.prior.models import build_tokenizer

    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("models") / "clip"
    tokenizer = build_tokenizer([sample_scene(0, i).caption for i in range(20)], folder)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {**tower, **ids, "pad_token_id": tokenizer.pad_token_id, "vocab_size": len(tokenizer)}
    config = CLIPConfig(
        text_config={**text, "max_position_embeddings": 32, "projection_dim": 8},
        vision_config={**tower, "image_size": SIZE, "patch_size": 16, "projection_dim": 8},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    return folder


def write_run(folder: Path, model: Path, dataset: Path, seed: int = 0) -> Path:
    """A finished run per docs/formats.md, with a ControlNet whose outputs are not zero."""
    import pandas as pd
    from diffusers import ControlNetModel, UNet2DConditionModel

    from trainer.nets.base import model_identity
    from trainer.watch.validate import validation_rows

    torch.manual_seed(seed)
    unet = UNet2DConditionModel.from_pretrained(model, subfolder="unet")
    controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8, 8, 8))
    for parameter in controlnet.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.5)
    controlnet.save_pretrained(folder / "checkpoints" / "step-0000010")
    where = {"path": str(dataset), "name": "tiny", "fingerprint": "dataset-mark"}
    options = {"model": str(model), "dataset": str(dataset), "lr": 1e-4}
    base = {"path": str(model), "sha256": model_identity(str(model))}
    config = {"config": options, "model": base, "dataset": where}
    write_json(folder / "config.json", {**config, "fingerprint": f"run-mark-{seed}", "version": "0", "commit": "c"})
    summary = {
        "step": 10, "fingerprint": f"run-mark-{seed}", "train_seed": seed, "dataset": "tiny", "condition": "canny",
        "dataset_fingerprint": "dataset-mark", "subset_size": TRAIN, "model": str(model),
        "checkpoint": "checkpoints/step-0000010",
    }  # fmt: skip
    lines = [{"step": s, "images": 8 * s, "loss": 1 / s, "grad_norm": 1.0, "lr": 1e-4} for s in range(1, 11)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    losses = [validation_rows(s, 8 * s, "loss", {"true": [1 / s, 2 / s], "none": [3 / s, 4 / s]}) for s in (5, 10)]
    pd.DataFrame([row for rows in losses for row in rows]).to_parquet(folder / "validation.parquet")
    found = {"converged": True, "reason": "converged suddenly at step 7", "step": 7, "interval": [5, 9]}
    write_json(folder / "convergence.json", found)
    write_json(folder / "summary.json", summary)
    return folder


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory, model_folder: Path, dataset: Path) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "demo", model_folder, dataset)
