"""The diffusers config of a single file: embedded, taken from a like model, or read off the shapes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.contract.errors import CnlabError
from pipeline.contract.files import read_json
from trainer.exchange.layout import CLASS, Shapes, check_class, known_fields, meta_model

#: Dimension of the text states -> heads of the families that are published: SD 1.x has 8 heads at every width, SD 2.x
#: and SDXL heads of 64 channels (num_heads and num_head_channels of cldm_v15.yaml and cldm_v21.yaml).
HEADS_8, HEADS_OF_64 = (768,), (1024, 2048)
TIME_IDS_WIDTH = 256  # of each of SDXL's six sizes and crops, in its UNet's config.json


def find_config(shapes: Shapes, embedded: str | None, like: Path | None, where: str) -> dict[str, Any]:
    """The config of the ControlNet whose single-file tensors (names without prefix) have ``shapes``.

    embedded  the config.json in the file's metadata, if any; ``like`` goes before it
    like      folder of a ControlNet, of a UNet, or of a whole pipeline, of the same architecture
    Whether the tensors fit the config is left to the caller. Raises CnlabError.
    """
    if like is not None:
        config = _like_config(like, shapes, where)
        source = str(like)
    elif embedded is not None:
        config, source = _embedded_config(embedded, where), where
    else:
        structure = infer_structure(shapes, where)
        config, source = {**structure, **_infer_heads(structure, where)}, where
    if embedded is None or like is not None:  # with every default written out
        _bound(config, len(shapes), source)
        config = {"_class_name": CLASS, **json.loads(meta_model(config, source).to_json_string())}
    check_class(config, source)
    _bound(config, len(shapes), source)
    return config


def _embedded_config(text: str, where: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise CnlabError(f"the configuration inside {where} is not JSON ({error}); give --like FOLDER") from error
    if not isinstance(config, dict):
        raise CnlabError(f"the configuration inside {where} is not a JSON object; give --like FOLDER")
    return config


def _like_config(folder: Path, shapes: Shapes, where: str) -> dict[str, Any]:
    path = next((p for p in (folder / "config.json", folder / "unet" / "config.json") if p.is_file()), None)
    if path is None:
        raise CnlabError(f"{folder} has no config.json of a ControlNet or UNet; give another --like FOLDER")
    config: dict[str, Any] = read_json(path)
    kind = config.get("_class_name") if isinstance(config, dict) else None
    if kind == "UNet2DConditionModel":  # has no hint encoder, whose channels are in the file
        return {**known_fields(config), **_hint(shapes, where)}
    if kind != CLASS:
        raise CnlabError(f"{path} is the configuration of a {kind}, not of a ControlNet or UNet")
    return known_fields(config)


def _bound(config: Mapping[str, Any], tensors: int, where: str) -> None:
    """Refuse a config with more layers than the file has tensors, before a model is built of it."""
    levels, hint = config.get("down_block_types"), config.get("conditioning_embedding_out_channels")
    layers, depths = config.get("layers_per_block"), config.get("transformer_layers_per_block", 1)
    depths = depths if isinstance(depths, list | tuple) else [depths]
    if not (isinstance(levels, list | tuple) and isinstance(hint, list | tuple)):
        raise CnlabError(f"the configuration in {where} lacks down_block_types or conditioning_embedding_out_channels")
    countable = isinstance(layers, int) and depths and all(isinstance(depth, int) for depth in depths)
    if not countable or len(levels) * (layers or 0) * max(1, *depths) + len(hint) > 4 * tensors:
        raise CnlabError(f"the configuration in {where} has no sensible number of layers for {tensors} tensors")


def infer_structure(shapes: Shapes, where: str) -> dict[str, Any]:
    """What shapes tell of the config: all but the heads and the scalars. Raises CnlabError for no such model."""
    levels = _levels(shapes, where)
    attention = next((n.rsplit(".attn2.", 1)[0] for n in shapes if n.endswith(".attn2.to_k.weight")), None)
    middle = _depth(shapes, "middle_block.1")
    depths = [depth if depth is not None else 1 for _, depth, _ in levels]
    if levels[-1][1] is None and middle is not None:
        depths[-1] = middle  # in diffusers the middle is as deep as the last level
    config: dict[str, Any] = {
        "in_channels": _size(shapes, "input_blocks.0.0.weight", 1, where),
        "block_out_channels": [width for width, _, _ in levels],
        "layers_per_block": levels[0][2],
        "down_block_types": ["DownBlock2D" if d is None else "CrossAttnDownBlock2D" for _, d, _ in levels],
        "mid_block_type": "UNetMidBlock2D" if middle is None else "UNetMidBlock2DCrossAttn",
        "transformer_layers_per_block": depths[0] if len(set(depths)) == 1 else depths,
        **_hint(shapes, where),
    }
    if attention is not None:
        config["cross_attention_dim"] = _size(shapes, f"{attention}.attn2.to_k.weight", 1, where)
        proj_in = f"{attention.rsplit('.transformer_blocks', 1)[0]}.proj_in.weight"
        config["use_linear_projection"] = len(shapes.get(proj_in, ())) == 2
    if "label_emb.0.0.weight" in shapes:
        width = _size(shapes, "label_emb.0.0.weight", 1, where)
        config |= {"addition_embed_type": "text_time", "addition_time_embed_dim": TIME_IDS_WIDTH}
        config["projection_class_embeddings_input_dim"] = width
    return config


def _levels(shapes: Shapes, where: str) -> list[tuple[int, int | None, int]]:
    """(width, transformer depth or None, residual blocks) of each level of the encoder."""
    levels: list[list[tuple[int, int | None]]] = [[]]
    place = 1
    while True:
        block = f"input_blocks.{place}"
        if f"{block}.0.op.weight" in shapes:
            levels.append([])
        elif f"{block}.0.in_layers.2.weight" in shapes:
            width = _size(shapes, f"{block}.0.in_layers.2.weight", 0, where)
            levels[-1].append((width, _depth(shapes, f"{block}.1")))
        else:
            break
        place += 1
    if any(len(set(level)) != 1 for level in levels) or len({len(level) for level in levels}) != 1:
        raise CnlabError(
            f"the encoder of {where} is irregular or incomplete (up to input_blocks.{place - 1}): within a level all "
            "blocks must be alike, and all levels of one length"
        )
    return [(*level[0], len(level)) for level in levels]


def _depth(shapes: Shapes, block: str) -> int | None:
    """Transformer blocks in ``block``; None when it has no transformer."""
    if f"{block}.proj_in.weight" not in shapes:
        return None
    depth = 0
    while f"{block}.transformer_blocks.{depth}.norm1.weight" in shapes:
        depth += 1
    return depth


def _hint(shapes: Shapes, where: str) -> dict[str, Any]:
    """Channels of the hint encoder: of its first convolution and of each strided one (every fourth place)."""
    channels, place = [], 0
    while f"input_hint_block.{place}.weight" in shapes:
        channels.append(_size(shapes, f"input_hint_block.{place}.weight", 0, where))
        place += 4
    conditioning = _size(shapes, "input_hint_block.0.weight", 1, where)
    return {"conditioning_channels": conditioning, "conditioning_embedding_out_channels": channels}


def _infer_heads(structure: Mapping[str, Any], where: str) -> dict[str, Any]:
    widths, context = structure["block_out_channels"], structure.get("cross_attention_dim")
    if any(width % 64 for width in widths):
        context = 0  # narrower than any published model: groups and heads are anybody's guess
    if context in HEADS_8:
        return {"attention_head_dim": 8}
    if context is None or context in HEADS_OF_64:  # diffusers calls the number of heads attention_head_dim
        return {"attention_head_dim": [width // 64 for width in widths]}
    raise CnlabError(
        f"the number of attention heads of {where} cannot be read off its shapes (widths {widths}, text states "
        f"{structure.get('cross_attention_dim')}); give --like FOLDER with a ControlNet or UNet of its architecture"
    )


def _size(shapes: Shapes, name: str, axis: int, where: str) -> int:
    shape = shapes.get(name)
    if shape is None or len(shape) <= axis:
        raise CnlabError(f"{where} holds no ControlNet in the single-file layout (no {name} with channels)")
    return shape[axis]
