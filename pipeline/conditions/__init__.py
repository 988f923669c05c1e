"""Condition extractors. One extractor, one file; the same one re-measures generated images."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.conditions.base import Condition, Given, Params
from pipeline.conditions.canny import Canny
from pipeline.conditions.lineart import Lineart
from pipeline.io import CnlabError

__all__ = ["REGISTRY", "Condition", "Params", "get_condition"]

REGISTRY: dict[str, Callable[[], Condition]] = {"canny": Canny, "lineart": Lineart}


def get_condition(name: str, given: tuple[str, ...] = ()) -> Condition:
    """The extractor called ``name``; for a map that comes with the source (``given``) one that only hands it on."""
    if name in given:
        return Given(name)
    if name not in REGISTRY:
        raise CnlabError(f"unknown condition {name!r}; there are {', '.join(sorted({*REGISTRY, *given}))}")
    return REGISTRY[name]()
