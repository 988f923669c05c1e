"""Is the caption a text at all?"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from pipeline.sources.base import Rejected

#: Names that cameras, phones and web sites give to files; they say nothing of what is on the picture.
FILE_NAME = re.compile(
    r"(?i)^(img|dsc[nf]?|dscf|pict?|image|photo|screenshot|screen shot|untitled|unnamed|whatsapp image|pxl|mvi|gopr|p)?"
    r"[\s_-]*[\d\s_():.-]*(\.(jpe?g|png|webp|bmp|tiff?|gif))?$"
)
HEX = re.compile(r"(?i)^[0-9a-f-]{16,}$")
URL = re.compile(r"(?i)^(https?://|www\.)\S+$")
#: HTML: closing tags, comments, attributes, and tags that stand alone; `<sks>` is the token of a new concept.
MARKUP = re.compile(
    r"(?i)</[a-z][a-z0-9]*\s*>|<!(--|doctype)|<[a-z][a-z0-9]*\s[^<>]*=|<(br|hr|p|div|img|li|h[1-6])\s*/?>"
)


def screen_caption(text: str, limits: Mapping[str, float]) -> None:
    """Raise `Rejected` with caption_empty, caption_too_long or caption_not_text."""
    text = text.strip()
    if not text or caption_length(text) < limits["min_caption"]:
        if limits["min_caption"] > 0:
            raise Rejected("caption_empty", repr(text))
        return
    if len(text) > limits["max_caption"]:
        raise Rejected("caption_too_long", f"{len(text)} characters")
    if limits["min_letters"] > 0 and (why := _not_text(text, limits["min_letters"])):
        raise Rejected("caption_not_text", f"{why}: {text[:80]!r}")


def caption_length(text: str) -> int:
    """Characters, those of Chinese, Japanese and Korean three times: one of them is a syllable or a word."""
    return sum(3 if unicodedata.category(c) == "Lo" and unicodedata.east_asian_width(c) in "WH" else 1 for c in text)


def letter_share(text: str) -> float:
    """Share of letters and their marks among the characters of a text (not empty) that are no blanks.

    Marks are the vowels of Indic, Khmer, Thai and Tibetan scripts, and of pointed Arabic and Hebrew.
    """
    kinds = [unicodedata.category(c) for c in text if not c.isspace()]
    shown = [kind for kind in kinds if kind != "Cf"]
    return sum(kind[0] in "LM" for kind in shown) / max(len(shown), 1)


def _not_text(text: str, min_letters: float) -> str:
    """Why ``text`` is no caption, or an empty string."""
    for pattern, why in ((FILE_NAME, "a file name"), (HEX, "a hash"), (URL, "an address")):
        if pattern.match(text):
            return why
    if "\ufffd" in text:
        return "broken encoding"
    if MARKUP.search(text):
        return "markup"
    if (letters := letter_share(text)) < min_letters:
        return f"{letters:.2f} letters"
    words = text.lower().split()
    if len(words) >= 6 and len(set(words)) <= len(words) // 3:
        return "the same words again and again"
    return ""
