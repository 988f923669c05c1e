"""What makes the recipes fast on a CPU: bf16 products where the processor has them, and attention written out.

torch's fused attention for CPUs has a slow bf16 backward (a third of a step of the prior's UNet); two batched products
and a softmax are the same function (docs/log.md).
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

PLAIN = "cnlab_plain"  # name of `plain_attention` in transformers' registry


def has_bf16() -> bool:
    """Whether this CPU multiplies bf16 natively (avx512_bf16); others emulate it, many times slower than float32."""
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


def autocast() -> torch.autocast:
    """Autocast to bf16 where `has_bf16`, otherwise a context that changes nothing."""
    return torch.autocast("cpu", torch.bfloat16, enabled=has_bf16())


def plain_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Attention as transformers calls it: queries, keys, values (B, H, T, d) -> (B, T, H, d), weights (B, H, T, T)."""
    logits = torch.matmul(query * scaling, key.transpose(2, 3))
    if attention_mask is not None:
        logits = logits + attention_mask.to(logits.dtype)
    weights = logits.softmax(-1)
    return torch.matmul(weights.to(value.dtype), value).transpose(1, 2).contiguous(), weights


def use_plain_attention(model: PreTrainedModel | UNet2DConditionModel | AutoencoderKL) -> None:
    """Have every layer attend by two batched products and a softmax; what is saved stays the same."""
    if isinstance(model, PreTrainedModel):
        AttentionInterface.register(PLAIN, plain_attention)
        AttentionMaskInterface.register(
            PLAIN, eager_mask
        )  # without it transformers passes no mask, the causal one included
        model.set_attn_implementation(PLAIN)
    else:
        model.set_attn_processor(AttnProcessor())  # diffusers' own plain form
