"""A model in diffusers' layout as one file in the layout that SD 1.x, 2.x and SDXL were published in, for tests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]
RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
          "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}  # fmt: skip
TOP = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
       "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
       "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}  # fmt: skip
CLIP = {"text_model.": "", "encoder.layers": "transformer.resblocks", "layer_norm1": "ln_1", "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "self_attn": "attn", "final_layer_norm": "ln_final",
        "embeddings.token_embedding": "token_embedding",
        "embeddings.position_embedding.weight": "positional_embedding"}  # fmt: skip


def unet_name(name: str, layers: int, attends: set[int]) -> str:
    """``layers`` a level; ``attends``: levels of the decoder with attention."""
    for own, theirs in TOP.items():
        if name.startswith(own + "."):
            return name.replace(own, theirs)
    part, rest = re.fullmatch(r"(\w+_blocks?\.(?:\d+\.)?\w+\.\d+)\.(.+)", name).groups()  # type: ignore[union-attr]
    words = part.split(".")
    if words[0] == "mid_block":
        place = f"middle_block.{1 if words[1] == 'attentions' else 2 * int(words[2])}"
    else:
        level, kind, number = int(words[1]), words[2], int(words[3])
        if words[0] == "down_blocks":
            index = (layers + 1) * level + 1 + (layers if kind == "downsamplers" else number)
            place = f"input_blocks.{index}.{1 if kind == 'attentions' else 0}"
        else:
            index = (layers + 1) * level + (layers if kind == "upsamplers" else number)
            inner = {"resnets": 0, "attentions": 1, "upsamplers": 2 if level in attends else 1}[kind]
            place = f"output_blocks.{index}.{inner}"
    if "resnets" in part:
        head, _, tail = rest.partition(".")
        rest = f"{RESNET[head]}.{tail}"
    if "downsamplers" in part:
        rest = rest.replace("conv", "op", 1)
    return f"{place}.{rest}"


def vae_name(name: str, levels: int) -> str:
    name = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    for own, theirs in {"conv_shortcut": "nin_shortcut", "conv_norm_out": "norm_out", "group_norm": "norm",
                        "mid_block.attentions.0": "mid.attn_1", "to_out.0": "proj_out", "to_q": "q", "to_k": "k",
                        "to_v": "v"}.items():  # fmt: skip
        name = name.replace(own, theirs)
    return name


def vae_tensors(vae: Any, prefix: str = "first_stage_model.") -> Tensors:
    """An autoencoder's weights under their published names; alone in a file they have no prefix."""
    levels = len(vae.config.block_out_channels)
    named = {vae_name(name, levels): value for name, value in vae.state_dict().items()}
    convolutions = {n: v[..., None, None] for n, v in named.items() if "attn_1" in n and v.ndim == 2}
    return {prefix + name: value for name, value in {**named, **convolutions}.items()}


def open_clip(tensors: Tensors) -> Tensors:
    """The second text encoder of SDXL, the only one of SD 2.x (which was published without its projection)."""
    out: Tensors = {}
    for name, value in tensors.items():
        for own, theirs in CLIP.items():
            name = name.replace(own, theirs)
        out[name] = value
    for name in [n for n in out if ".q_proj." in n]:
        parts = [out.pop(name.replace(".q_proj.", f".{k}_proj.")) for k in "qkv"]
        out[name.replace(".q_proj.", ".in_proj_")] = torch.cat(parts)
    if "text_projection.weight" in out:
        out["text_projection"] = out.pop("text_projection.weight").T
    return out


def write_single_file(folder: Path, file: Path) -> Path:
    """The model in ``folder`` as one ``.safetensors`` or ``.ckpt`` file."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    attends = {i for i, kind in enumerate(unet.config.up_block_types) if "CrossAttn" in kind}
    layers = unet.config.layers_per_block
    out = {f"model.diffusion_model.{unet_name(n, layers, attends)}": v for n, v in unet.state_dict().items()}
    out |= vae_tensors(AutoencoderKL.from_pretrained(folder, subfolder="vae"))
    first = {
        n if n.startswith("text_model.") else f"text_model.{n}": v
        for n, v in load_file(folder / "text_encoder" / "model.safetensors").items()
    }
    second = folder / "text_encoder_2" / "model.safetensors"
    if unet.config.use_linear_projection and not second.is_file():  # SD 2.x
        out |= {f"cond_stage_model.model.{name}": value for name, value in open_clip(first).items()}
    else:
        prefix = "conditioner.embedders.0.transformer." if second.is_file() else "cond_stage_model.transformer."
        out |= {prefix + name: value for name, value in first.items()}
    if second.is_file():
        out |= {f"conditioner.embedders.1.model.{n}": v for n, v in open_clip(load_file(second)).items()}
    out = {name: value.detach().contiguous().clone() for name, value in out.items()}
    if file.suffix == ".safetensors":
        save_file(out, file)
    else:
        torch.save({"state_dict": out}, file)
    return file
