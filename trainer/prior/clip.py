"""`tabletop-clip`: contrastive training (Radford et al., 2021) with swapped captions as hard negatives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from pipeline.tabletop.scene import COLORS, MATERIALS, SHAPES, SIZES
from trainer.prior.fit import FitConfig, batch_indices, fit
from trainer.prior.models import TOKENS, build_clip, swapped

CONFIG = FitConfig(steps=850, lr=1e-3, batch=128, warmup=150, ema_decay=0.995, weight_decay=0.05)
SWAPS = (tuple(COLORS), SHAPES, MATERIALS, SIZES)
#: CLIP's own normalisation (openai/clip-vit-base-patch32), sRGB in [0, 1].
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def clip_pixels(images: NDArray[np.uint8]) -> Tensor:
    """(B, S, S, 3) uint8 -> (B, 3, S, S) float32, CLIP-normalised."""
    x = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def token_ids(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """(B, TOKENS) int64, padded and truncated."""
    out = tokenizer(texts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")
    ids: Tensor = out.input_ids
    return ids


def train_clip(images: NDArray[np.uint8], captions: list[str], tokenizer: CLIPTokenizer, work: Path) -> CLIPModel:
    """Train (or finish training) CLIP on the prior's renders; checkpoints below ``work``."""
    torch.manual_seed(11)
    model = build_clip(tokenizer)
    ids = token_ids(tokenizer, captions)
    kinds = np.arange(len(captions)) % len(SWAPS)
    hard = token_ids(tokenizer, [swapped(c, SWAPS[k:] + SWAPS[:k]) for c, k in zip(captions, kinds, strict=True)])
    differs = (hard != ids).any(1)

    def loss_of(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        pick = batch_indices(CONFIG, step, len(captions))
        at = torch.from_numpy(pick)
        pixels = clip_pixels(images[pick])
        if step % 2:  # a shift of up to 8 px: the caption stays true
            dx, dy = (int(v) for v in torch.randint(-8, 9, (2,), generator=generator))
            pixels = F.pad(pixels, (8, 8, 8, 8), mode="replicate")[..., 8 + dy : 136 + dy, 8 + dx : 136 + dx]
        seen = F.normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
        texts = torch.cat([ids[at], hard[at]])
        said = F.normalize(model.get_text_features(input_ids=texts).pooler_output, dim=-1)
        scale = model.logit_scale.exp().clamp(max=100)
        logits = scale * seen @ said.T  # (B, 2B): every caption and every swapped caption
        b = len(pick)
        same = (ids[at][:, None] == ids[at][None]).all(-1) & ~torch.eye(b, dtype=torch.bool)
        void = torch.cat([same, (~differs[at])[None].expand(b, b)], 1)
        logits = logits.masked_fill(void, -1e4)
        target = torch.arange(b)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits[:, :b].T, target)) / 2
        return loss, {"top1": (logits.argmax(1) == target).float().mean().item(), "scale": scale.item()}

    fit("clip", work, model, loss_of, CONFIG)
    return model
