"""The contact sheet: images above their maps, with captions, to be looked at before anything is trained."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.contract.dataset import first_rows
from pipeline.contract.files import atomic
from pipeline.contract.pictures import decode_image

COLUMNS, ROWS, TILE, CAPTION = 8, 4, 128, 44  # pictures across and down, pixels a side, pixels for the text
HEAD = 16  # pixels for the line that says what lies above what


def write_contact(folder: Path, shards: list[dict[str, Any]], conditions: tuple[str, ...]) -> None:
    """Write ``contact.png`` from the first training samples."""
    rows = first_rows(folder, shards, "train", COLUMNS * ROWS, ["image", "text", *conditions])
    tall = TILE * (1 + len(conditions)) + CAPTION
    sheet = Image.new("RGB", (COLUMNS * (TILE + 8) + 8, HEAD + -(-len(rows) // COLUMNS) * tall + 8), (250, 250, 248))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(9)
    said = f"{folder.name}, first training samples; from top to bottom: image, {', '.join(conditions)}, caption"
    draw.text((8, 5), said, fill=(110, 110, 110), font=font)
    for i, row in enumerate(rows):
        x, y = 8 + (i % COLUMNS) * (TILE + 8), HEAD + 8 + (i // COLUMNS) * tall
        for j, column in enumerate(("image", *conditions)):
            picture = Image.fromarray(np.ascontiguousarray(decode_image(row[column]["bytes"])))
            sheet.paste(picture.resize((TILE, TILE), Image.Resampling.LANCZOS, reducing_gap=2.0), (x, y + j * TILE))
        plain = "".join(c if c.isprintable() else " " for c in row["text"])[:200]
        lines = textwrap.wrap(plain, 27, max_lines=3, placeholder=" ...")
        draw.multiline_text((x, y + tall - CAPTION + 3), "\n".join(lines), fill=(40, 40, 40), font=font, spacing=2)
    with atomic(folder / "contact.png") as temporary:
        sheet.save(temporary, "PNG", compress_level=4)
