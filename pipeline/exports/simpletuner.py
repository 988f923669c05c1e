"""bghira/SimpleTuner: paired folders and a multidatabackend.json that pairs them.

References
----------
https://github.com/bghira/SimpleTuner: documentation/CONTROLNET.md (``conditioning_data`` of the one is the ``id`` of
the other) and documentation/DATALOADER.md (``caption_strategy`` ``textfile``: NAME.txt beside the picture).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.contract.files import write_json
from pipeline.exports.base import Finished, Item, write_pairs


class SimpleTuner:
    """The layout of `Kohya`, with ``multidatabackend.json``."""

    name = "simpletuner"
    single = True

    def write(self, folder: Path, split: str, number: int, items: Iterator[Item], conditions: tuple[str, ...]) -> None:
        """See `Layout`."""
        write_pairs(folder / split, items, captions=True)

    def finish(self, export: Finished) -> None:
        """The data loader's config of the training split."""
        train, size = export.folder.resolve() / "train", export.image_size
        common: dict[str, Any] = {
            "type": "local",
            "metadata_backend": "discovery",
            "resolution": size,
            "resolution_type": "pixel",
            "minimum_image_size": size,
            "maximum_image_size": size,
            "target_downsample_size": size,
            "crop": True,
            "crop_aspect": "square",
            "crop_style": "center",
        }
        maps = {
            "id": f"{export.name}-conditioning",
            "dataset_type": "conditioning",
            "conditioning_type": "controlnet",
            "instance_data_dir": str(train / "conditioning"),
            "caption_strategy": None,
            **common,
        }
        images = {
            "id": f"{export.name}-data",
            "dataset_type": "image",
            "conditioning_data": maps["id"],
            "instance_data_dir": str(train / "image"),
            "caption_strategy": "textfile",
            "cache_dir_vae": f"cache/vae/{export.name}",
            **common,
        }
        texts = {
            "id": f"{export.name}-text",
            "dataset_type": "text_embeds",
            "default": True,
            "type": "local",
            "cache_dir": f"cache/text/{export.name}",
        }
        write_json(export.folder / "multidatabackend.json", [images, maps, texts])
