"""Hugging Face's ``imagefolder``: a metadata.jsonl a split, whose ``*_file_name`` fields become picture columns.

References
----------
https://huggingface.co/docs/datasets/image_dataset ("ImageFolder"). The columns are those that diffusers'
``train_controlnet.py`` takes by default: image, conditioning_image, text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from pipeline.contract.files import atomic
from pipeline.exports.base import Finished, Item, write_pairs

CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: train/**
  - split: eval
    path: eval/**
---
"""


class ImageFolder:
    """``train/metadata.jsonl``, ``train/image/``, ``train/conditioning/``; ``eval`` likewise."""

    name = "imagefolder"
    single = True

    def write(self, folder: Path, split: str, number: int, items: Iterator[Item], conditions: tuple[str, ...]) -> None:
        """See `Layout`."""
        write_pairs(folder / split, items, captions=False)

    def finish(self, export: Finished) -> None:
        """Metadata, and a card by which ``load_dataset`` keeps the name of the split ``eval``."""
        for split, index in export.index.items():
            with (
                atomic(export.folder / split / "metadata.jsonl") as temporary,
                temporary.open("w", encoding="utf-8") as out,
            ):
                for row in index.to_pylist():
                    line = {
                        "image_file_name": f"image/{row['name']}{row['suffix']}",
                        "conditioning_image_file_name": f"conditioning/{row['name']}.png",
                        "text": row["text"],
                        "key": row["key"],
                    }
                    out.write(json.dumps(line, ensure_ascii=False) + "\n")
        with atomic(export.folder / "README.md") as temporary:
            temporary.write_text(CARD, encoding="utf-8")
