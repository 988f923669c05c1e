"""Where images come from. One source, one file; `open_source` finds it by the name before the colon."""

from __future__ import annotations

from pipeline.io import CnlabError
from pipeline.sources.base import Raw, Rejected, Source

__all__ = ["Raw", "Rejected", "Source", "open_source"]


def open_source(spec: str, seed: int, image_size: int) -> Source:
    """``tabletop`` or ``folder:PATH``; raises CnlabError for anything else."""
    name, _, where = spec.partition(":")
    if name == "tabletop":
        from pipeline.sources.tabletop import Tabletop

        return Tabletop(seed, image_size)
    if name == "folder":
        from pipeline.sources.folder import Folder

        return Folder(where, image_size)
    raise CnlabError(f"unknown source {spec!r}; use tabletop or folder:PATH")
