"""Floating-point operations of a training step, and the peak they are a share of.

An operation is a multiplication or an addition inside a matrix product or a convolution, forward and backward;
element-wise work is not counted, nor is what gradient checkpointing computes twice (as in the usual definition of model
FLOPs utilisation, Chowdhery et al., PaLM, 2022, appendix B).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from trainer.loop import predict

#: Dense peak, operations a second, without sparsity: (words of the device's name, bf16, tf32, fp32). Source: NVIDIA's
#: data sheets of the A100, H100 and H200, whose figures with sparsity are halved; SXM unless the name says otherwise.
PEAKS = (
    ("H200 NVL", 835.5e12, 417.5e12, 60e12),
    ("H200", 989.5e12, 494.5e12, 67e12),
    ("H100 NVL", 835.5e12, 417.5e12, 60e12),
    ("H100 PCIe", 756e12, 378e12, 51e12),
    ("H100", 989.5e12, 494.5e12, 67e12),
    ("A100", 312e12, 156e12, 19.5e12),
)


def count(step: Callable[[], object]) -> int:
    """Operations of ``step``; attention runs as plain products meanwhile: a CPU's fused kernel goes uncounted."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        step()
    return int(counter.get_total_flops())


def sd15_unet(**changes: Any) -> UNet2DConditionModel:
    """SD 1.5's UNet with random weights; its config is the library's default but for the width of the text."""
    return UNet2DConditionModel(**{"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8, **changes})


def denoising(
    unet: UNet2DConditionModel, control: ControlNetModel | None, size: int, tokens: int = 77
) -> Callable[[], object]:
    """Forward and backward of `trainer.loop.predict` for one image of ``size`` px, on the device of ``unet``.

    Trained is whatever requires gradients. For the meta device, where 512 px of SD 1.5 cost neither time nor memory.
    """
    device = unet.device
    batch = {
        "noisy": torch.zeros((1, unet.config.in_channels, size // 8, size // 8), device=device),
        "t": torch.zeros(1, dtype=torch.int64, device=device),
        "states": torch.zeros((1, tokens, unet.config.cross_attention_dim), device=device),
        "hint": torch.zeros((1, 3, size, size), device=device),
    }
    return lambda: predict(unet, control, batch).square().mean().backward()


def known_peak(device: str, precision: str) -> float:
    """Operations a second by the maker's data sheet; nan for devices that are not in the table."""
    column = {"bf16": 1, "fp16": 1, "tf32": 2, "fp32": 3}[precision]
    matching = [row for row in PEAKS if all(word in device for word in row[0].split())]
    return float(matching[0][column]) if matching else float("nan")


def matmul_peak(device: torch.device, dtype: torch.dtype = torch.float32, side: int = 2048, repeats: int = 8) -> float:
    """Operations a second of the fastest of ``repeats`` square products, with torch's present number of threads."""
    a, b = (torch.randn((side, side), device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(repeats + 2):
        wait(device)
        began = time.perf_counter()
        a @ b
        wait(device)
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def wait(device: torch.device) -> None:
    """Until the device has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize()
