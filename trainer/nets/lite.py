"""The ablation's light nets: each block of the trainable copy replaced by one convolution."""

from __future__ import annotations

from typing import Any, Literal

import torch
from diffusers import ControlNetModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding, ControlNetOutput, zero_module
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

SILU_GAIN = 2.81  # 1 / E[silu(x)^2] for x ~ N(0, 1): keeps the variance of a signal of unit variance


class ControlNetLite(ControlNetModel):  # type: ignore[misc]  # diffusers counts as Any
    """A ControlNet whose encoder is one layer a block, trained from nothing; the 13 zero convolutions stay.

    ``conv``: a 3x3 convolution a block, of stride 2 where the prior halves the resolution (each trainable copy becomes
    one convolution layer: paper, section 4.2 and figure 8c). ``mlp``: a 1x1 convolution a block, halved by average
    pooling (ControlNet discussion 188). Neither reads timestep or text. It is a `ControlNetModel` to the public
    pipelines, which ask for that class; its folder is read by `trainer.nets.control.load_control`.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        kind: Literal["conv", "mlp"] = "conv",
        in_channels: int = 4,
        block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280),
        layers_per_block: int = 2,
        conditioning_channels: int = 3,
        conditioning_embedding_out_channels: tuple[int, ...] = (16, 32, 96, 256),
        controlnet_conditioning_channel_order: str = "rgb",
        global_pool_conditions: bool = False,
    ) -> None:
        """Random layers behind zero convolutions; parameters as in `ControlNetModel`."""
        ModelMixin.__init__(self)
        first = block_out_channels[0]
        self.conv_in = nn.Conv2d(in_channels, first, 3, padding=1)
        self.controlnet_cond_embedding = ControlNetConditioningEmbedding(
            first, conditioning_channels, conditioning_embedding_out_channels
        )
        plan, width = [], first  # (channels in, channels out, stride) of each block after the first
        for level, channels in enumerate(block_out_channels):
            for _ in range(layers_per_block):
                plan.append((width, channels, 1))
                width = channels
            if level < len(block_out_channels) - 1:
                plan.append((width, width, 2))
        self.blocks = nn.ModuleList([_block(kind, *spec) for spec in plan])
        self.mid = _block(kind, width, width, 1)
        for layer in (*self.blocks.modules(), *self.mid.modules()):
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=(SILU_GAIN / layer.weight[0].numel()) ** 0.5)
                nn.init.constant_(layer.get_parameter("bias"), 0)
        outputs = [first, *(out for _, out, _ in plan)]
        self.controlnet_down_blocks = nn.ModuleList([zero_module(nn.Conv2d(c, c, 1)) for c in outputs])
        self.controlnet_mid_block = zero_module(nn.Conv2d(width, width, 1))

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        controlnet_cond: Tensor,
        conditioning_scale: float = 1.0,
        guess_mode: bool = False,
        return_dict: bool = True,
        **unused: Any,
    ) -> Any:
        """(B, C, h, w) latents and (B, 3, H, W) maps in [0, 1] -> 12 residuals and the middle one."""
        h = self.conv_in(sample) + self.controlnet_cond_embedding(controlnet_cond)
        states = [h]
        for block in self.blocks:
            h = block(h)
            states.append(h)
        outputs = [zero(state) for zero, state in zip(self.controlnet_down_blocks, states, strict=True)]
        outputs.append(self.controlnet_mid_block(self.mid(h)))
        if guess_mode:  # diffusers' scales, 0.1 to 1
            scales = torch.logspace(-1, 0, len(outputs), device=sample.device) * conditioning_scale
        else:
            scales = torch.full((len(outputs),), conditioning_scale, device=sample.device)
        *down, mid = (out * scale.to(out.dtype) for out, scale in zip(outputs, scales, strict=True))
        if not return_dict:
            return down, mid
        return ControlNetOutput(down_block_res_samples=tuple(down), mid_block_res_sample=mid)


def _block(kind: str, into: int, out: int, stride: int) -> nn.Sequential:
    if kind == "conv":
        return nn.Sequential(nn.Conv2d(into, out, 3, stride=stride, padding=1), nn.SiLU())
    pool = [nn.AvgPool2d(stride)] if stride > 1 else []
    return nn.Sequential(*pool, nn.Conv2d(into, out, 1), nn.SiLU())
