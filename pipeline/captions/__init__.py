"""Where captions come from: the source's own words, templates, or models."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.captions.base import Captioner, clean_caption
from pipeline.captions.from_source import SourceCaption, TemplateCaption
from pipeline.contract.errors import CnlabError

__all__ = ["GIVEN_CAPTIONS", "Captioner", "clean_caption", "get_captioner"]

GIVEN_CAPTIONS = ("sidecar", "metadata", "column", "template", "filename")  # what sources hand on, best first


def get_captioner(name: str, weights: Mapping[str, str] | None = None) -> Captioner:
    """``sidecar``, ``metadata``, ``column``, ``template``, ``filename``, ``template:TEXT``, ``blip``,
    ``interrogator`` or ``interrogator:MODE`` (fast, classic, best).

    ``weights`` tells where the models ``blip`` and ``interrogator`` are: local folders or hub names. Raises CnlabError.
    """
    where = weights or {}
    kind, _, rest = name.partition(":")
    if name in GIVEN_CAPTIONS:
        return SourceCaption(name)
    if kind == "template":
        return TemplateCaption(rest)
    if name == "blip":
        from pipeline.captions.blip import Blip

        return Blip(where.get("blip", ""))
    if kind == "interrogator":
        from pipeline.captions.interrogator import InterrogatorCaption

        return InterrogatorCaption(where.get("interrogator", ""), where.get("blip", ""), rest or "fast")
    known = [*GIVEN_CAPTIONS, "template:TEXT", "blip", "interrogator", "interrogator:MODE"]
    raise CnlabError(f"unknown caption source {name!r}; there are {', '.join(known)}")
