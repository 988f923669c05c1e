"""The contact sheet: images above their maps, with captions, to be looked at before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.contract.dataset import first_rows
from pipeline.contract.files import atomic
from pipeline.contract.pictures import Tile, decode_image, picture_sheet

COLUMNS, ROWS, SIDE, CAPTION = 8, 4, 128, 44  # pictures across and down, pixels a side, pixels for the text


def write_contact(folder: Path, shards: list[dict[str, Any]], conditions: tuple[str, ...]) -> None:
    """Write ``contact.png`` from the first training samples."""
    columns = ["image", *conditions]
    rows = first_rows(folder, shards, "train", COLUMNS * ROWS, [*columns, "text"])
    tiles = [Tile(tuple(decode_image(row[c]["bytes"]) for c in columns), text=row["text"]) for row in rows]
    head = f"{folder.name}, first training samples; from top to bottom: {', '.join(columns)}, caption"
    with atomic(folder / "contact.png") as temporary:
        picture_sheet(tiles, COLUMNS, SIDE, label=CAPTION, head=head).save(temporary, "PNG", compress_level=4)
