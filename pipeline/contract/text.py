"""Text of unknown origin, made harmless for where it is shown. What it says stays readable; what it does is gone."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence

from tabulate import tabulate

#: Format characters that scripts and emoji need: zero-width non-joiner and joiner, and the soft hyphen.
JOINERS = "\u200c\u200d\u00ad"
MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|~:@$^])")
LEADING = re.compile(r"^([-=]|\d+(?=[.)]))")  # would open a list or underline a heading
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def for_terminal(text: str) -> str:
    """One line without control, bidi or surrogate characters: each becomes its escape, e.g. ``\\x1b``.

    The replacement is the one of Unicode's TR 36 for display: nothing vanishes, nothing is executed.
    """
    return "".join(c if _shown(c) else c.encode("unicode_escape").decode("ascii") for c in text)


def _shown(char: str) -> bool:
    return char in JOINERS or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp")


def for_html(text: str) -> str:
    """For element text and quoted attributes (`html.escape`)."""
    return html.escape(for_terminal(text), quote=True)


def for_markdown(text: str) -> str:
    """For a table cell or a line of CommonMark or GFM: no links, images, HTML, cells, headings, lists or maths."""
    escaped = MARKDOWN.sub(r"\\\1", html.escape(for_terminal(text), quote=False))
    escaped = LEADING.sub(lambda m: f"\\{m[0]}" if m[0] in "-=" else f"{m[0]}\\", escaped)
    return re.sub(r"(?i)\bwww\.", r"www\\.", escaped)


def for_csv(text: str) -> str:
    """For a cell that a spreadsheet may open: what would start a formula gets a leading quote (OWASP, CSV injection).

    Separators and quotes are the csv module's business.
    """
    safe = for_terminal(text)
    return f"'{safe}" if text.startswith(FORMULA) or safe.lstrip().startswith(FORMULA) else safe


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A GitHub table of cells that are Markdown already (`for_markdown`)."""
    return tabulate(rows, headers=head, tablefmt="github", disable_numparse=True)
