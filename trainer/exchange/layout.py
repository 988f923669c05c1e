"""Two layouts of the same ControlNet: names and shapes of its tensors in diffusers and in the single-file layout.

The single-file layout is that of the released code (``cldm.ControlNet`` of lllyasviel/ControlNet, itself after
``openaimodel.UNetModel`` of Stable Diffusion): the encoder is one flat list ``input_blocks``, in which every residual
block with its transformer, and every downsampling, has a place; ``zero_convs`` has one convolution a place. No tensor
changes its shape between the two, so conversion is renaming. The renaming follows from config.json alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ControlNetModel

from pipeline.contract.errors import CnlabError, first_line

CLASS = "ControlNetModel"
Shapes = Mapping[str, tuple[int, ...]]  # tensor name -> shape

#: A residual block: diffusers' module -> place in ``ResBlock``.
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
#: What is named alike in every architecture. SDXL's added conditions and a projected class share one place.
FIXED = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "class_embedding.linear_1": "label_emb.0.0",
    "class_embedding.linear_2": "label_emb.0.2",
    "controlnet_cond_embedding.conv_in": "input_hint_block.0",
    "controlnet_mid_block": "middle_block_out.0",
}
ATTENDS = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}


@dataclass(frozen=True)
class Layout:
    """One architecture in both layouts. ``names``: diffusers name -> single-file name, without any prefix."""

    names: dict[str, str]
    shapes: dict[str, tuple[int, ...]]  # by diffusers name

    @property
    def single_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by single-file name."""
        return {self.names[name]: shape for name, shape in self.shapes.items()}


def known_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of ``config`` that `ControlNetModel` takes."""
    return {k: config[k] for k in inspect.signature(ControlNetModel.__init__).parameters if k in config}


def meta_model(config: Mapping[str, Any], where: str) -> ControlNetModel:
    """The model of ``config`` on the meta device: shapes without memory. Raises CnlabError when there is none."""
    try:
        with torch.device("meta"):
            return ControlNetModel(**known_fields(config))
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        message = first_line(error)
        raise CnlabError(f"the configuration in {where} describes no ControlNet ({message})") from error


def check_class(config: Mapping[str, Any], where: str) -> None:
    """Raise CnlabError unless ``config`` is that of a plain ControlNet."""
    kind = config.get("_class_name", CLASS)
    if kind != CLASS:
        raise CnlabError(
            f"{where} holds a {kind}; the single-file layout has a place for {CLASS} only: use --layout diffusers"
        )


def expected_shapes(config: Mapping[str, Any], where: str) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of the ControlNet that ``config`` describes, by diffusers name."""
    return {name: tuple(value.shape) for name, value in meta_model(config, where).state_dict().items()}


def layout_of(config: Mapping[str, Any], where: str) -> Layout:
    """Names and shapes of the ControlNet that ``config`` (config.json) describes; ``where`` it is from, for errors.

    Raises CnlabError for another class and for parts that the single-file layout has no place for.
    """
    check_class(config, where)
    model = meta_model(config, where)
    modules = _module_names(model.config, where)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    names = {name: _renamed(name, modules) for name in shapes}
    homeless = [name for name, single in names.items() if not single]
    if homeless or len(set(names.values())) < len(names):
        parts = first_few(homeless) or "class_embedding beside add_embedding"
        raise CnlabError(f"the single-file layout has no place for {parts} of {where}; use --layout diffusers")
    return Layout(names, shapes)


def _module_names(config: Any, where: str) -> dict[str, str]:
    """Diffusers module -> single-file module, walking the encoder in its order."""
    modules = dict(FIXED)
    hint_blocks = 2 * (len(config.conditioning_embedding_out_channels) - 1)
    for i in range(hint_blocks):  # every second place of input_hint_block is an activation
        modules[f"controlnet_cond_embedding.blocks.{i}"] = f"input_hint_block.{2 * i + 2}"
    modules["controlnet_cond_embedding.conv_out"] = f"input_hint_block.{2 * hint_blocks + 2}"
    place = 1
    for level, kind in enumerate(config.down_block_types):
        if kind not in ATTENDS:
            raise CnlabError(f"the single-file layout has no place for the {kind} of {where}; use --layout diffusers")
        block = f"down_blocks.{level}"
        for layer in range(config.layers_per_block):
            modules |= _resnet(f"{block}.resnets.{layer}", f"input_blocks.{place}.0")
            modules[f"{block}.attentions.{layer}"] = f"input_blocks.{place}.1"
            place += 1
        if level < len(config.down_block_types) - 1:
            modules[f"{block}.downsamplers.0.conv"] = f"input_blocks.{place}.0.op"
            place += 1
    modules |= {f"controlnet_down_blocks.{i}": f"zero_convs.{i}.0" for i in range(place)}
    modules |= _resnet("mid_block.resnets.0", "middle_block.0") | _resnet("mid_block.resnets.1", "middle_block.2")
    modules["mid_block.attentions.0"] = "middle_block.1"  # inside a transformer both layouts use the same names
    return modules


def _resnet(theirs: str, ours: str) -> dict[str, str]:
    return {f"{theirs}.{a}": f"{ours}.{b}" for a, b in RESNET.items()}


def _renamed(name: str, modules: Mapping[str, str]) -> str:
    """The single-file name of one tensor by its longest known module; empty when there is none."""
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = modules.get(".".join(parts[:cut]))
        if module is not None:
            return ".".join([module, *parts[cut:]])
    return ""


def first_few(names: Iterable[str], count: int = 3) -> str:
    """``a, b, c and 4 more``, sorted; empty for none."""
    ordered = sorted(names)
    more = f" and {len(ordered) - count} more" if len(ordered) > count else ""
    return ", ".join(ordered[:count]) + more


def check_shapes(shapes: Shapes, expected: Shapes, where: str) -> None:
    """Raise CnlabError, naming the first few, when tensors are missing, unknown or of the wrong shape."""
    wrong = [
        f"{name} is {_by(shapes[name])}, not {_by(shape)}"
        for name, shape in expected.items()
        if name in shapes and shapes[name] != shape
    ]
    faults = [
        f"{word} {first_few(names)}"
        for word, names in (
            ("missing:", expected.keys() - shapes.keys()),
            ("unknown:", shapes.keys() - expected.keys()),
            ("wrong shape:", wrong),
        )
        if names
    ]
    if faults:
        raise CnlabError(f"the tensors of {where} do not fit its architecture; {'; '.join(faults)}")


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"
