"""WebDataset tars as img2dataset writes them, with a PNG for each map.

A sample is ``KEY.jpg`` (or ``.png``), ``KEY.txt``, ``KEY.json``, ``KEY.canny.png``.

References
----------
https://github.com/webdataset/webdataset (files of a sample share what stands before the first dot, and follow each
other) and https://huggingface.co/docs/hub/datasets-webdataset.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.contract.files import atomic
from pipeline.exports.base import Finished, Item

CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: train-*.tar
  - split: eval
    path: eval-*.tar
---
"""


class WebDataset:
    """A tar a shard, its members without dates or owners, so that the same samples are the same bytes."""

    name = "webdataset"
    single = False

    def write(self, folder: Path, split: str, number: int, items: Iterator[Item], conditions: tuple[str, ...]) -> None:
        """See `Layout`."""
        with atomic(folder / f"{split}-{number:05d}.tar") as temporary, tarfile.open(temporary, "w") as tar:
            for item in items:
                facts = json.dumps({**item.facts, "text": item.text}, ensure_ascii=False, sort_keys=True, default=str)
                files = {item.suffix: item.image, ".txt": item.text.encode(), ".json": facts.encode()}
                files |= {f".{name}.png": data for name, data in item.maps.items()}
                for suffix, data in files.items():
                    member = tarfile.TarInfo(item.name + suffix)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))

    def finish(self, export: Finished) -> None:
        """A card by which ``load_dataset`` knows the splits."""
        with atomic(export.folder / "README.md") as temporary:
            temporary.write_text(CARD, encoding="utf-8")
