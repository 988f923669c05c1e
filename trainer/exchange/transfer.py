"""A ControlNet for another model of the same layout: new = control + (target - source)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from pipeline.contract.errors import CnlabError, first_line
from pipeline.contract.files import write_json
from pipeline.contract.identity import code_version

if TYPE_CHECKING:  # a command line's help is not to wait for torch
    from torch import Tensor


@dataclass(frozen=True)
class TransferConfig:
    """Carry a ControlNet from the model it was trained on to another of the same layout, without training."""

    control: Positional[str]  # folder or hub name of the ControlNet
    source: str  # the model it was trained on: tabletop, a diffusers folder or a hub name
    target: str  # the model it is to serve
    out: Path  # folder to write, a diffusers ControlNet


def transfer(config: TransferConfig) -> Path:
    """Write the transferred net: every weight of the copy moves by what separates the two models' encoders.

    As ControlNet's ``tool_transfer_control.py``; hint encoder and zero convolutions have no twin and stay as they are.
    Raises CnlabError when the layouts differ.
    """
    from trainer.exchange.single_file import placing
    from trainer.nets.control import load_control

    if config.out.exists():
        raise CnlabError(f"{config.out} exists already; choose another --out or delete it")
    control = load_control(config.control)
    source, target = (_encoder(name) for name in (config.source, config.target))
    moved = control.state_dict()
    shared = sorted(set(moved) & set(source))
    if not shared:
        raise CnlabError(
            f"{config.control} holds no copy of an encoder (a light variant?); there is nothing to transfer"
        )
    for name in shared:
        shapes = {tuple(weights[name].shape) for weights in (moved, source, target) if name in weights}
        if name not in target or len(shapes) > 1:
            raise CnlabError(f"layouts differ: {name} has another shape in source, target or ControlNet, or is missing")
        moved[name] = moved[name] + (target[name] - source[name])
    control.load_state_dict(moved)
    record = {"control": config.control, "source": config.source, "target": config.target, "moved": len(shared)}
    with placing(config.out, overwrite=False) as part:
        control.save_pretrained(part)
        write_json(part / "transfer.json", {**record, **code_version()})
    return config.out


def _encoder(name: str) -> dict[str, Tensor]:
    """Weights of a model's UNet that a ControlNet copies."""
    import torch
    from diffusers import UNet2DConditionModel

    from trainer.nets.base import model_folder

    try:
        unet = UNet2DConditionModel.from_pretrained(
            model_folder(name), subfolder="unet", torch_dtype=torch.float32, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        first = first_line(error)
        raise CnlabError(f"model {name!r} is neither a diffusers folder nor reachable on the hub: {first}") from error
    parts = ("conv_in.", "time_embedding.", "add_embedding.", "class_embedding.", "down_blocks.", "mid_block.")
    return {k: v for k, v in unet.state_dict().items() if k.startswith(parts)}
