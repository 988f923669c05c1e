"""What real models take of a GPU's memory, without a GPU: networks under fake tensors (`trainer.memory`).

    python -m benchmarks.memory [--json FILE]     # SD 1.5, SD 2.1, SDXL with their published configurations; minutes

Measured: encoding latents, the forward pass of a bf16 training step at micro-batches of 1, 4 and 16 with and without
checkpointing, decoding pictures. Computed: gradients and optimizer states. Beside them the plan that a run makes from
forward passes of one and two images, and the kernel calls and casts of one step at micro-batch 4.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import tyro

from pipeline.contract.files import write_json
from pipeline.contract.text import markdown_table
from trainer.config import TrainConfig, Training
from trainer.data.encode import ENCODE_BATCH
from trainer.memory import GIB, Architecture, measure_decode, measure_encode, measure_forward, plan

VAE = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "norm_num_groups": 32, "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
#: The configurations published with each model; the UNet's other values are the library's defaults.
MODELS: dict[str, tuple[Architecture, int]] = {
    "SD 1.5": (
        Architecture({"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}, VAE, 123_060_480),
        512,
    ),
    "SD 2.1": (
        Architecture(
            {"sample_size": 96, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20),
             "use_linear_projection": True}, VAE, 340_387_840,
        ),
        768,
    ),
    "SDXL": (
        Architecture(
            {"sample_size": 128, "block_out_channels": (320, 640, 1280), "layers_per_block": 2,
             "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20), "transformer_layers_per_block": (1, 2, 10),
             "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
             "projection_class_embeddings_input_dim": 2816,
             "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
             "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")}, VAE, 817_720_320,
        ),
        1024,
    ),
}  # fmt: skip
MICRO_BATCHES = (1, 4, 16)


def training_of(checkpointing: bool, **changes: Any) -> Training:
    """A bf16 run at the `sd` preset."""
    training = TrainConfig(dataset=Path.cwd(), model="none", preset="sd", precision="bf16").resolved()
    engine = ("channels_last", "checkpointing") if checkpointing else ("channels_last",)
    return replace(training, engine=engine, **changes)


def rows_of(name: str, micro_batches: tuple[int, ...] = MICRO_BATCHES) -> list[dict[str, Any]]:
    """Rows of one model: model, size, what, images, checkpointing, gib, kind; for forward passes plan, calls, casts."""
    architecture, size = MODELS[name]
    shared = {"model": name, "size": size}
    encoding, decoding = (measure(architecture, 4, size) for measure in (measure_encode, measure_decode))
    rows = [
        {**shared, "what": "encode", "images": ENCODE_BATCH, "gib": (encoding.peak + encoding.weights) / GIB},
        {**shared, "what": "decode", "images": 4, "gib": (decoding.peak + decoding.weights) / GIB},
    ]
    for checkpointing in (False, True):
        training = training_of(checkpointing)
        estimate = plan(architecture, training, size)
        states = (estimate.gradients + estimate.optimizer) / GIB
        rows.append({**shared, "what": "gradients and optimizer", "gib": states, "kind": "computed",
                     "checkpointing": checkpointing})  # fmt: skip
        for images in micro_batches:
            forward = measure_forward(architecture, training, images, size)
            rows.append({
                **shared, "what": "forward", "images": images, "checkpointing": checkpointing,
                "gib": forward.peak / GIB, "plan": (estimate.fixed + estimate.per_image * images) / GIB,
                "in all": estimate.needs(images) / GIB, "calls": forward.calls, "casts": forward.casts,
            })  # fmt: skip
    return [{"kind": "measured", **row} for row in rows]


def main(json: Path | None = None, models: tuple[str, ...] = tuple(MODELS)) -> None:
    """Print the table.

    Args:
        json: the same as JSON.
        models: some of SD 1.5, SD 2.1, SDXL.
    """
    rows = [row for name in models for row in rows_of(name)]
    columns = ["model", "size", "what", "images", "checkpointing", "gib", "kind", "plan", "in all", "calls", "casts"]
    shown = [[_cell(row.get(column, "")) for column in columns] for row in rows]
    print(markdown_table(columns, shown))
    if json is not None:
        write_json(json, rows)


def _cell(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    tyro.cli(main)
