"""Whether a ControlNet fits a prior, by their configurations alone."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from pipeline.contract.errors import CnlabError, first_line
from pipeline.contract.hub import NAMES
from trainer.nets.base import PLAIN, BaseOptions, model_folder
from trainer.nets.control import CLASSES, decoder_parameters
from trainer.run_folder import checkpoints

#: Fields that decide the shapes or the meaning of what passes between the two networks.
SHARED = (
    "in_channels", "block_out_channels", "layers_per_block", "down_block_types", "cross_attention_dim",
    "num_attention_heads", "attention_head_dim", "transformer_layers_per_block", "use_linear_projection",
    "norm_num_groups", "addition_embed_type", "addition_time_embed_dim", "projection_class_embeddings_input_dim",
    "class_embed_type", "num_class_embeds", "flip_sin_to_cos", "freq_shift",
)  # fmt: skip
#: Class of a net -> variants that can start from it, so that a run's recorded variant is what it trains.
STARTS = {"ControlNetModel": ("controlnet", "gaussian", "only_mid", "vae", "lora"), "ControlNetVae": ("vae", "lora")}
START_ADVICE = "start from a ControlNet of this model's kind, or take the --model that it was trained on"


def check_init(
    init: str, model: str, options: BaseOptions = PLAIN, unlocked: bool = True, variant: str = "controlnet"
) -> None:
    """Raise CnlabError, naming the first field that differs, unless the ControlNet ``init`` fits ``model``'s UNet.

    What a configuration leaves out has its class's default; a number stands for a list of equal ones. A net that was
    trained together with the prior's decoder is lost without it, so it needs ``unlocked``.
    """
    if Path(init).is_file():
        raise CnlabError(
            f"--init {init} is a file; bring it into a folder first: cnlab-train import --file {init} --out FOLDER"
        )
    _check_place(init)
    try:
        control = ControlNetModel.load_config(init)
    except (OSError, ValueError) as error:
        raise CnlabError(
            f"{init} is neither a ControlNet folder nor reachable on the hub: {first_line(error)}"
        ) from error
    try:
        unet = UNet2DConditionModel.load_config(model_folder(model, options, configs_only=True), subfolder="unet")
    except (OSError, ValueError) as error:
        raise CnlabError(f"model {model!r} is neither a diffusers folder nor reachable: {first_line(error)}") from error
    trained = Path(init) / "unet"
    if trained.is_dir() and not unlocked:
        raise CnlabError(
            f"--init {init} was trained together with the prior's decoder, which lies in its unet/; add "
            "--unlock-decoder, which goes on from that decoder"
        )
    if trained.is_dir():
        theirs = UNet2DConditionModel.load_config(trained)
        _compare(f"--init {init}", model, (theirs, UNet2DConditionModel), unet, START_ADVICE)
    kind = str(control.get("_class_name", "")) or "nothing that says its class"
    if kind not in STARTS:
        raise CnlabError(f"--init {init} holds {kind}; start from the folder of a ControlNet")
    if variant not in STARTS[kind]:
        raise CnlabError(
            f"--init {init} holds a {kind}, from which --variant {' or '.join(STARTS[kind])} can start, not {variant}"
        )
    _compare(f"--init {init}", model, _described(control), unet, START_ADVICE)


def check_pair(control: str, net: ControlNetModel, model: str, unet: Mapping[str, Any]) -> None:
    """Raise CnlabError, naming the first field that differs, unless ``net``, of any variant, fits a UNet.

    ``control`` and ``model`` are their names, for the message; ``unet`` is the UNet's configuration.
    """
    advice = "give --model, the base model that the ControlNet was trained on"
    described = {**net.config, "_class_name": type(net).__name__}
    _compare(f"the ControlNet {control}", model, _described(described), unet, advice)


def _described(control: Mapping[str, Any]) -> tuple[Mapping[str, Any], Any]:
    """The part of a ControlNet's configuration that mirrors a UNet's, and the class whose defaults it has."""
    kind = str(control.get("_class_name", ""))
    if kind == "ControlNetVae":
        return control["copy"], ControlNetModel
    return control, CLASSES.get(kind, ControlNetModel)


def _check_place(init: str) -> None:
    """Raise CnlabError where a path is that of a run, or of nothing; what may be a hub's name is left to the hub."""
    path = Path(init)
    if path.is_dir() and checkpoints(path):
        newest = list(checkpoints(path).values())[-1]
        raise CnlabError(f"--init {init} is a run; start from one of its checkpoints, such as --init {newest}")
    if path.exists() or NAMES["model"].fullmatch(init):
        return
    others = [str(place) for place in checkpoints(path.parents[1]).values()] if len(path.parents) > 1 else []
    there = f"; there are {', '.join(others)}" if others else ""
    raise CnlabError(f"--init {init}: there is no such folder, and it is no hub name{there}")


def _compare(what: str, model: str, net: tuple[Mapping[str, Any], Any], unet: Mapping[str, Any], advice: str) -> None:
    """``net``: its configuration and class; a field that the class does not know (lite, mlp) is passed over."""
    for name in SHARED:
        if name not in inspect.signature(net[1].__init__).parameters:
            continue
        theirs, own = _value(*net, name), _value(unet, UNet2DConditionModel, name)
        if theirs != own:
            raise CnlabError(
                f"{what} does not fit the model {model!r}: {name} is {theirs} in the ControlNet, {own} in the UNet; "
                f"{advice}"
            )


def load_decoder(unet: UNet2DConditionModel, init: str) -> None:
    """Put the decoder that was trained together with the net ``init``, if one was, in place of the prior's."""
    folder = Path(init) / "unet"
    if init and folder.is_dir():
        trained = UNet2DConditionModel.from_pretrained(folder, torch_dtype=torch.float32, use_safetensors=True)
        with torch.no_grad():
            for own, theirs in zip(decoder_parameters(unet), decoder_parameters(trained), strict=True):
                own.copy_(theirs)


def _value(config: Mapping[str, Any], kind: Any, name: str) -> Any:
    default = inspect.signature(kind.__init__).parameters[name].default
    value = config.get(name, default)
    if isinstance(value, tuple | list):
        value = list(value)
        return value[0] if len(set(map(str, value))) == 1 else value
    return value
