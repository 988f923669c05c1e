"""kohya-ss/sd-scripts: a folder of pictures with captions, a folder of maps with the same base names, a dataset.toml.

References
----------
https://github.com/kohya-ss/sd-scripts: docs/train_lllite_README.md ("Preparing the dataset"), docs/config_README-en.md.
Its trainers assert that no pair is incomplete and, with buckets, that both sizes are equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.contract.files import atomic
from pipeline.exports.base import Finished, Item, quoted, write_pairs

CONFIG = """# for --dataset_config of train_control_net.py, sdxl_train_control_net.py, flux_train_control_net.py ...
[general]
caption_extension = ".txt"
enable_bucket = false

[[datasets]]
resolution = {size}
batch_size = 1

  [[datasets.subsets]]
  image_dir = {image}
  conditioning_data_dir = {conditioning}
  num_repeats = 1
"""


class Kohya:
    """``train/image/NAME.png`` and ``.txt``, ``train/conditioning/NAME.png``, ``dataset.toml``; ``eval`` likewise."""

    name = "kohya"
    single = True

    def write(self, folder: Path, split: str, number: int, items: Iterator[Item], conditions: tuple[str, ...]) -> None:
        """See `Layout`."""
        write_pairs(folder / split, items, captions=True)

    def finish(self, export: Finished) -> None:
        """The config of the training split."""
        train = export.folder.resolve() / "train"
        text = CONFIG.format(
            size=export.image_size, image=quoted(train / "image"), conditioning=quoted(train / "conditioning")
        )
        with atomic(export.folder / "dataset.toml") as temporary:
            temporary.write_text(text, encoding="utf-8")
