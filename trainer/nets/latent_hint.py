"""The ControlNet that reads its map as the prior reads pictures: through the prior's own autoencoder."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn


class ControlNetVae(ControlNetModel):  # type: ignore[misc]  # diffusers counts as Any
    """A copy of the encoder whose input is the map's latent in place of the noisy one, behind zero convolutions.

    There is no hint encoder to be learned from nothing: the copy reads latents from the first step on. The
    autoencoder's encoder is frozen, stays in fp32 and travels in the folder, so that the public pipelines can pass a
    picture; the folder is read by `trainer.nets.control.load_control`.

    References
    ----------
    Xu et al., CtrLoRA: An Extensible and Efficient Framework for Controllable Image Generation, ICLR 2025, section 3.2
    (``cldm_ctrlora_finetune.py``: ``h = hint``).
    """

    _keep_in_fp32_modules = ["encoder", "quant_conv"]  # noqa: RUF012

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, copy: dict[str, Any], autoencoder: dict[str, Any]) -> None:
        """``copy``: configuration of the ControlNet; ``autoencoder``: that of the `AutoencoderKL`. Random weights."""
        super().__init__(**copy)
        vae: Any = AutoencoderKL.from_config(autoencoder)
        self.encoder, self.quant_conv = vae.encoder, vae.quant_conv or nn.Identity()
        self.controlnet_cond_embedding = nn.Identity()
        self.scaling_factor = vae.config.scaling_factor
        self.freeze_encoder()

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **more: Any) -> Any:
        """Of a folder's configuration: the copy's fields stand there once more by themselves, for the pipelines."""
        own = {k: v for k, v in config_dict.items() if k in ("copy", "autoencoder") or k.startswith("_")}
        return super().extract_init_dict(own, **more)

    def freeze_encoder(self) -> None:
        """Keep the autoencoder as it is."""
        for part in (self.encoder, self.quant_conv):
            part.requires_grad_(False)

    @torch.no_grad()
    def encode(self, maps: Tensor) -> Tensor:
        """(B, 3, H, W) maps in [0, 1] -> (B, C, h, w) posterior means, scaled; below 0 counts as 0."""
        weight = next(self.encoder.parameters())
        with torch.autocast(maps.device.type, enabled=False):
            pictures = maps.to(weight.dtype).clamp(0, 1) * 2 - 1
            mean = self.quant_conv(self.encoder(pictures)).chunk(2, 1)[0]
        latents: Tensor = (mean * self.scaling_factor).to(maps.dtype)
        return latents

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        controlnet_cond: Tensor,
        **more: Any,
    ) -> Any:
        """As `ControlNetModel.forward`; of ``sample`` only the dtype is read."""
        latents = self.encode(controlnet_cond).to(sample.dtype)
        nothing = torch.zeros((), dtype=sample.dtype, device=sample.device)
        return super().forward(latents, timestep, encoder_hidden_states, nothing, **more)


def with_latent_hint(control: ControlNetModel, vae: AutoencoderKL) -> ControlNetVae:
    """``control``'s copy and outputs, reading maps through ``vae``."""
    known = ControlNetModel._get_init_keys(ControlNetModel)
    copy = {k: v for k, v in control.config.items() if k in known}
    autoencoder = {k: v for k, v in vae.config.items() if not k.startswith("_")}
    net: ControlNetVae = ControlNetVae(copy=copy, autoencoder=autoencoder)
    state = {k: v for k, v in control.state_dict().items() if not k.startswith("controlnet_cond_embedding.")}
    state |= {f"encoder.{k}": v for k, v in vae.encoder.state_dict().items()}
    if vae.quant_conv is not None:
        state |= {f"quant_conv.{k}": v for k, v in vae.quant_conv.state_dict().items()}
    net.load_state_dict(state)
    return net
