"""A finished dataset in the layouts of other trainers: one layout, one file."""

from __future__ import annotations

from pipeline.exports.base import Layout
from pipeline.exports.imagefolder import ImageFolder
from pipeline.exports.kohya import Kohya
from pipeline.exports.simpletuner import SimpleTuner
from pipeline.exports.webdataset import WebDataset

__all__ = ["LAYOUTS", "Layout"]

LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (ImageFolder(), WebDataset(), Kohya(), SimpleTuner())}
