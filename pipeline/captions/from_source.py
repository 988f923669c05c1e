"""Captions that need no model: those of the source, alone or in a template."""

from __future__ import annotations

import string
from collections.abc import Mapping

from pipeline.captions.base import Picture
from pipeline.contract.errors import CnlabError

FIELDS = ("sidecar", "metadata", "column", "filename", "template", "folder", "key")


class SourceCaption:
    """The text that the source gave under ``name``."""

    def __init__(self, name: str) -> None:
        self.name = name

    def prepare(self) -> None:
        """Nothing to load."""

    def caption(self, image: Picture, texts: Mapping[str, str]) -> str | None:
        """``texts[name]``."""
        return texts.get(self.name)


class TemplateCaption:
    """A sentence with fields, e.g. ``template:a photo of {folder}, {sidecar}``; silent where a field is empty.

    ``{folder}`` is the name of the folder that the image lies in: the class of an ImageNet-like tree.
    """

    def __init__(self, text: str) -> None:
        self.name, self.parts = f"template:{text}", _parse(text)

    def prepare(self) -> None:
        """Nothing to load."""

    def caption(self, image: Picture, texts: Mapping[str, str]) -> str | None:
        """The filled template; what fills it is text, never a template itself."""
        if not all(texts.get(name, "").strip() for _, name in self.parts if name):
            return None
        return "".join(before + (texts[name] if name else "") for before, name in self.parts)


def _parse(text: str) -> list[tuple[str, str | None]]:
    """(text before, field) pairs. Attributes, indices, conversions and formats are refused: fields are plain names."""
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        raise CnlabError(f"caption template {text!r}: {error}; write {{{{ for a brace") from error
    for _, name, form, conversion in parts:
        if name is not None and (name not in FIELDS or form or conversion):
            shown = name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
            raise CnlabError(f"caption template {text!r}: unknown field {{{shown}}}; there are {', '.join(FIELDS)}")
    if not text.strip():
        raise CnlabError("the caption template is empty; e.g. --captions 'template:a photo of {folder}'")
    return [(before, name) for before, name, _, _ in parts]
