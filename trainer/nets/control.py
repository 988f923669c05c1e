"""The trained net: the paper's ControlNet and its variants, built and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from torch import nn

from pipeline.contract.errors import CnlabError, first_line
from trainer.nets.latent_hint import ControlNetVae, with_latent_hint
from trainer.nets.lite import ControlNetLite
from trainer.nets.lora import add_lora

LIGHT = {"lite": "conv", "mlp": "mlp"}  # variants without a copy of the encoder
CLASSES: dict[str, Any] = {"ControlNetLite": ControlNetLite, "ControlNetVae": ControlNetVae}


def build_control(
    unet: UNet2DConditionModel,
    hint: tuple[int, ...],
    seed: int,
    hint_init: str = "released",
    variant: str = "controlnet",
    init: str = "",
    *,
    vae: AutoencoderKL | None = None,
    rank: int = 16,
) -> ControlNetModel:
    """Build the net to be trained: its 13 outputs are added to the prior (paper, eq. 2, section 3.2).

    Parameters
    ----------
    unet
        The prior's UNet.
    hint
        Channels of the hint encoder.
    seed
        Of its weights.
    hint_init
        ``released``: PyTorch's default, as in the released code and diffusers; ``gaussian``: see `init_hint`.
    variant
        ``controlnet``: a copy of the encoder behind zero convolutions.
        ``gaussian``: the zero convolutions are N(0, 1 / fan-in) instead (paper, figure 8b).
        ``only_mid``: only the middle output is added; the twelve others are frozen at zero.
        ``lite``, ``mlp``: no copy, see `ControlNetLite`. ``vae``: see `ControlNetVae`. ``lora``: see `add_lora`.
    init
        Folder or hub name of a ControlNet to start from; its own hint encoder and outputs stay.
    vae
        The prior's autoencoder, which ``vae`` needs.
    rank
        Of the updates of ``lora``.

    Raises
    ------
    CnlabError
        When ``init`` cannot be loaded, or has outputs that ``only_mid`` would set to zero.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if init:
            control = load_control(init)
        elif variant in LIGHT:
            control = _light(unet, hint, LIGHT[variant])
        else:
            control = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=hint)
        if hint_init == "gaussian" and not init:
            init_hint(control)
        if variant == "gaussian" and not init:
            init_outputs(control)
        if variant == "vae" and not isinstance(control, ControlNetVae):
            if vae is None:
                raise ValueError("the variant vae needs the prior's autoencoder")
            control = with_latent_hint(control, vae)
        control.float().requires_grad_(True)
        if variant == "lora":
            add_lora(control, rank)
    if isinstance(control, ControlNetVae):
        control.freeze_encoder()
    if variant == "only_mid":
        _freeze_outputs(control, init)
    return control.to(unet.device).train()


def _freeze_outputs(control: ControlNetModel, init: str) -> None:
    """Freeze all outputs but the middle one at zero; raises CnlabError when that would undo training."""
    for zero in control.controlnet_down_blocks:
        if init and any(bool(parameter.any()) for parameter in zero.parameters()):
            raise CnlabError(
                f"--init {init}: its outputs besides the middle one are trained, and --variant only_mid would set them "
                "to zero; start from a net trained with only_mid, or choose another --variant"
            )
        for parameter in zero.parameters():
            nn.init.zeros_(parameter).requires_grad_(False)


def load_control(where: str | Path, dtype: torch.dtype = torch.float32) -> ControlNetModel:
    """Load a ControlNet of any variant from its folder or a hub name; raises CnlabError when it cannot be had."""
    try:
        named = ControlNetModel.load_config(str(where))
        kind: Any = CLASSES.get(named.get("_class_name"), ControlNetModel)
        return kind.from_pretrained(str(where), torch_dtype=dtype, use_safetensors=True)
    except (OSError, ValueError) as error:
        first = first_line(error)
        raise CnlabError(f"{where} is neither a ControlNet folder nor reachable on the hub: {first}") from error


def _light(unet: UNet2DConditionModel, hint: tuple[int, ...], kind: str) -> ControlNetLite:
    layers = unet.config.layers_per_block
    if not isinstance(layers, int):
        raise CnlabError("light variants need a prior with the same number of layers on every level")
    light: ControlNetLite = ControlNetLite(
        kind=kind,
        in_channels=unet.config.in_channels,
        block_out_channels=tuple(unet.config.block_out_channels),
        layers_per_block=layers,
        conditioning_embedding_out_channels=hint,
    )
    return light


@torch.no_grad()
def init_hint(control: ControlNetModel) -> None:
    """Gaussian weights of variance 4 / fan-in in the hint encoder; its last layer stays zero.

    PyTorch's default shrinks an edge map's signal to a standard deviation of about 0.001 by the eighth layer, which
    must grow before the map can matter. Near zero SiLU(x) = x / 2, so a gain of 2 keeps the variance. "Initialized with
    Gaussian weights" is also what the paper says of this encoder (section 3.2), without the scale.
    """
    encoder = control.controlnet_cond_embedding
    for layer in (encoder.conv_in, *encoder.blocks):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
        layer.weight.mul_(2.0)
        nn.init.zeros_(layer.bias)


@torch.no_grad()
def init_outputs(control: ControlNetModel) -> None:
    """N(0, 1 / fan-in) in the output convolutions and the last hint layer: figure 8b leaves no layer at zero."""
    layers = (*control.controlnet_down_blocks, control.controlnet_mid_block, control.controlnet_cond_embedding.conv_out)
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
        nn.init.zeros_(layer.bias)


def decoder_parameters(unet: UNet2DConditionModel) -> list[nn.Parameter]:
    """What ``sd_locked = False`` trains besides: the output blocks and the last layers (ControlNet, cldm.py)."""
    parts = [unet.up_blocks, unet.conv_norm_out, unet.conv_out]
    return [p for part in parts if part is not None for p in part.parameters()]
