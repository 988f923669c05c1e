"""Where images come from. One source, one file; `open_source` finds it by the name before the colon."""

from __future__ import annotations

from pipeline.contract.errors import CnlabError
from pipeline.sources.base import Raw, Rejected, Source
from pipeline.sources.columns import ReadConfig

__all__ = ["Raw", "Rejected", "Source", "open_source"]


def open_source(
    spec: str, seed: int, image_size: int, maps: tuple[str, ...] | None = None, read: ReadConfig | None = None
) -> Source:
    """``tabletop``, ``fill50k``, ``folder:PATH``, ``webdataset:URL``, ``parquet:PATH`` or ``hub:NAME[:SPLIT[:ROWS]]``.

    ``maps`` limits the maps of the source that are read to those named; None reads all. ``read``: which columns are
    which, where known names do not tell. Raises CnlabError.
    """
    name, _, where = spec.partition(":")
    if name == "tabletop":
        from pipeline.sources.tabletop import Tabletop

        return Tabletop(seed, image_size)
    if name == "fill50k":
        from pipeline.sources.fill50k import Fill50k

        return Fill50k(seed, image_size)
    if name == "folder":
        from pipeline.sources.folder import Folder

        return Folder(where, image_size, maps, read)
    if name == "webdataset":
        from pipeline.sources.webdataset import WebDataset

        return WebDataset(where, image_size, maps, read)
    if name == "parquet":
        from pipeline.sources.tables import open_parquet

        return open_parquet(where, image_size, maps, read)
    if name == "hub":
        from pipeline.sources.tables import open_hub

        return open_hub(where, image_size, maps, read)
    known = "tabletop, fill50k, folder:PATH, webdataset:URL, parquet:PATH or hub:NAME"
    raise CnlabError(f"unknown source {spec!r}; use {known}")
