"""The frozen prior and the ControlNet that is trained on top of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from pipeline.io import CnlabError, fingerprint, sha256_file

WEIGHTS = Path(__file__).parent / "prior" / "weights"  # what ships with the package


def resolve_model(name: str) -> str:
    """``tabletop`` -> the shipped folder; a local folder or a hub name as it is."""
    return str(WEIGHTS / "tabletop-sd") if name == "tabletop" else name


def resolve_clip(name: str) -> str:
    """``tabletop`` -> the shipped CLIP; a local folder or a hub name as it is."""
    return str(WEIGHTS / "tabletop-clip") if name == "tabletop" else name


def model_fingerprint(name: str) -> str:
    """sha256 over the weight files of a local folder; for a hub name the name itself."""
    folder = Path(resolve_model(name))
    if not folder.is_dir():
        return f"hub:{name}"
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".safetensors", ".json"))
    return fingerprint({p.relative_to(folder).as_posix(): sha256_file(p) for p in files})


@dataclass
class Prior:
    """A frozen latent diffusion model, every part in eval mode without gradients."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: DDPMScheduler

    def encode_text(self, ids: torch.Tensor) -> torch.Tensor:
        """(B, L) int64 token ids -> (B, L, D) states that cross-attention reads."""
        with torch.no_grad():
            states: torch.Tensor = self.text_encoder(input_ids=ids).last_hidden_state
        return states

    def tokenize(self, texts: list[str]) -> torch.Tensor:
        """Padded and truncated ids, (B, L) int64."""
        length = self.tokenizer.model_max_length
        out = self.tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        ids: torch.Tensor = out.input_ids
        return ids


def load_prior(name: str, device: torch.device) -> Prior:
    """Load every part by its diffusers subfolder in float32; raises CnlabError when the model cannot be had."""
    where = resolve_model(name)
    if name == "tabletop" and not Path(where).is_dir():
        raise CnlabError(f"{where} is missing: the package was installed without its weights; run make prior")
    parts: dict[str, Any] = {}
    try:
        for part, cls in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
            parts[part] = cls.from_pretrained(where, subfolder=part, torch_dtype=torch.float32)
        parts["text_encoder"] = CLIPTextModel.from_pretrained(where, subfolder="text_encoder", dtype=torch.float32)
        parts["tokenizer"] = CLIPTokenizer.from_pretrained(where, subfolder="tokenizer")
        parts["scheduler"] = DDPMScheduler.from_pretrained(where, subfolder="scheduler")
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise CnlabError(f"model {name!r} is neither a diffusers folder nor reachable on the hub: {first}") from error
    for part in ("unet", "vae", "text_encoder"):
        parts[part].requires_grad_(False).eval().to(device)
    return Prior(**parts)


@torch.no_grad()
def init_hint(control: ControlNetModel) -> None:
    """Gaussian weights of variance 4 / fan-in in the hint encoder; its last layer stays zero.

    PyTorch's default shrinks an edge map's signal to a standard deviation of about 0.001 by the eighth layer, which
    must grow before the map can matter. Near zero SiLU(x) = x / 2, so a gain of 2 keeps the variance. "Initialized with
    Gaussian weights" is also what the paper says of this encoder (section 3.2), without the scale.
    """
    encoder = control.controlnet_cond_embedding
    for layer in (encoder.conv_in, *encoder.blocks):
        torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
        layer.weight.mul_(2.0)
        torch.nn.init.zeros_(layer.bias)


def build_controlnet(
    unet: UNet2DConditionModel, hint: tuple[int, ...], seed: int, hint_init: str = "released"
) -> ControlNetModel:
    """A trainable copy of the encoder and middle block behind zero convolutions (paper, eq. 2 and section 3.2).

    hint       channels of the hint encoder, whose weights are drawn from ``seed``
    hint_init  ``released``: PyTorch's default, as in the released code and diffusers; ``gaussian``: see `init_hint`
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        control = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=hint)
        if hint_init == "gaussian":
            init_hint(control)
    return control.to(unet.device).train()
