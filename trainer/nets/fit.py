"""Whether a ControlNet to start from fits a prior, by their configurations alone."""

from __future__ import annotations

import inspect
from typing import Any

from diffusers import ControlNetModel, UNet2DConditionModel

from pipeline.contract.errors import CnlabError, first_line
from trainer.nets.models import resolve_model

#: Fields that decide the shapes or the meaning of what passes between the two networks.
SHARED = (
    "in_channels", "block_out_channels", "layers_per_block", "down_block_types", "cross_attention_dim",
    "num_attention_heads", "attention_head_dim", "transformer_layers_per_block", "use_linear_projection",
    "norm_num_groups", "addition_embed_type", "addition_time_embed_dim", "projection_class_embeddings_input_dim",
    "class_embed_type", "num_class_embeds", "flip_sin_to_cos", "freq_shift",
)  # fmt: skip


def check_init(init: str, model: str) -> None:
    """Raise CnlabError, naming the first field that differs, unless the ControlNet ``init`` fits ``model``'s UNet.

    What a configuration leaves out has its class's default; a number stands for a list of equal ones.
    """
    try:
        control = ControlNetModel.load_config(init)
    except (OSError, ValueError) as error:
        raise CnlabError(
            f"{init} is neither a ControlNet folder nor reachable on the hub: {first_line(error)}"
        ) from error
    try:
        unet = UNet2DConditionModel.load_config(resolve_model(model), subfolder="unet")
    except (OSError, ValueError) as error:
        raise CnlabError(f"model {model!r} is neither a diffusers folder nor reachable: {first_line(error)}") from error
    light = control.get("_class_name") == "ControlNetLite"
    for name in SHARED[:3] if light else SHARED:
        theirs, own = (
            _value(config, name, kind) for config, kind in ((control, ControlNetModel), (unet, UNet2DConditionModel))
        )
        if theirs != own:
            raise CnlabError(
                f"--init {init} does not fit the model {model!r}: {name} is {theirs} in the ControlNet, {own} in the "
                "UNet; start from a ControlNet of this model's kind, or take the --model that it was trained on"
            )


def _value(config: dict[str, Any], name: str, kind: Any) -> Any:
    default = inspect.signature(kind.__init__).parameters[name].default
    value = config.get(name, default)
    if isinstance(value, tuple | list):
        value = list(value)
        return value[0] if len(set(map(str, value))) == 1 else value
    return value
