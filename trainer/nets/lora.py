"""Low-rank updates of the linear layers of a frozen copy: W + up @ down (Hu et al., LoRA, ICLR 2022)."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ControlNetModel
from torch import Tensor, nn

FACTORS = "lora.safetensors"  # of a checkpoint: the factors by layer; the folder's own weights are the merged ones
NORMS = (nn.GroupNorm, nn.LayerNorm)


class LoraLinear(nn.Linear):
    """A frozen linear layer with a trained update of low rank.

    Its entry of a state dict is the merged weight, so that a folder of the whole net is a plain ControlNet to every
    reader; the factors are stored apart (`factors`) and are what a resumed run reads. ``up`` is zero at first.
    """

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        """Take over weight and bias of ``layer``; factors (rank, in) and (out, rank)."""
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None)
        self.weight, self.bias = layer.weight, layer.bias
        rank = min(rank, layer.in_features, layer.out_features)
        self.down = nn.Parameter(torch.empty(rank, layer.in_features).normal_(std=1 / rank))
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return super().forward(x) + (x @ self.down.T) @ self.up.T

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[prefix + "weight"] = self.weight.detach() + self.up.detach() @ self.down.detach()
        if self.bias is not None:
            destination[prefix + "bias"] = self.bias if keep_vars else self.bias.detach()

    def _load_from_state_dict(self, *_: Any) -> None:
        """Leave the layer alone: the frozen weight is the prior's, and a merged one does not tell its factors."""


def add_lora(control: ControlNetModel, rank: int) -> None:
    """Freeze the copy; its linear layers get updates of ``rank``, drawn from torch's global generator.

    Trained besides: hint encoder, output convolutions and normalisations (CtrLoRA, cldm_ctrlora_finetune.py).
    """
    control.requires_grad_(False)
    for name, module in list(control.named_modules()):
        if isinstance(module, NORMS):
            module.requires_grad_(True)
        elif type(module).__name__ in ("Linear", "LoRACompatibleLinear") and isinstance(module, nn.Linear):
            parent, _, own = name.rpartition(".")
            setattr(control.get_submodule(parent), own, LoraLinear(module, rank))
    for part in (control.controlnet_cond_embedding, control.controlnet_down_blocks, control.controlnet_mid_block):
        part.requires_grad_(True)


def factors(control: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> factor of every updated layer; empty for a net without updates."""
    return {
        f"{name}.{side}": getattr(module, side)
        for name, module in control.named_modules()
        if isinstance(module, LoraLinear)
        for side in ("down", "up")
    }
