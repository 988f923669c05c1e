"""Captions as public sets ship them: COCO, Karpathy's splits, Flickr8k and Flickr30k; and a JSON beside each picture.

They name pictures that lie in another folder, by their bare names, and give several captions to each: the first one is
taken, and the build says so.
"""

from __future__ import annotations

import itertools
import json
import posixpath
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.contract.errors import CnlabError
from pipeline.sources.columns import FILE_NAMES, IMAGE_NAMES, TEXT_NAMES, ReadConfig, caption_columns
from pipeline.sources.files import read_text

#: COCO's captions_train2017.json, Karpathy's dataset_coco.json, Flickr8k's captions.txt and Flickr8k.token.txt,
#: Flickr30k's results.csv and results_20130124.token.
LISTS = re.compile(
    r"captions_.+\.json|dataset_(coco|flickr)\w*\.json|captions\.txt|.+\.token(\.txt)?|results\.csv", re.IGNORECASE
)
TOKEN = re.compile(r"([^\t#]+)#\d+\t(.*)")  # picture.jpg#0, a tab, the caption
SOME = 20  # JSON files that are opened to see whether they hold captions


def is_caption_list(name: str) -> bool:
    """By its name, in any folder."""
    return LISTS.fullmatch(posixpath.basename(name)) is not None


def names_pictures(path: Path) -> bool:
    """Whether a list that is no JSON is one by its first line, for others have files of such names too."""
    if path.suffix.lower() == ".json":
        return True
    with path.open("rb") as file:
        line = read_text(file.read(4096)).partition("\n")[0].strip()
    cells = {cell.strip().strip('"').lower() for cell in re.split(r"[,;\t|]", line)}
    headed = cells & {*FILE_NAMES, *IMAGE_NAMES} and cells & set(TEXT_NAMES)
    return TOKEN.fullmatch(line) is not None or bool(headed)


def rows_of_object(path: Path, whole: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Rows of COCO's or Karpathy's JSON object, one a picture with the list of its captions; None for any other.

    Raises CnlabError for annotations without captions, e.g. COCO's boxes.
    """
    images, notes = whole.get("images"), whole.get("annotations")
    if not isinstance(images, list) or not all(isinstance(image, dict) for image in images):
        return None
    if isinstance(notes, list):
        captions: dict[Any, list[str]] = {}
        for note in notes:
            if isinstance(note, dict) and "caption" in note:
                captions.setdefault(note.get("image_id"), []).append(note["caption"])
        if not captions:
            raise CnlabError(f"{path}: annotations without captions; move it away, or take the set's captions_*.json")
        return [
            {"file_name": image.get("file_name"), "text": captions[image.get("id")], "url": image.get("coco_url")}
            for image in images
            if image.get("id") in captions
        ]
    if not all("sentences" in image for image in images):
        return None
    return [
        {
            "file_name": posixpath.join(image.get("filepath") or "", image.get("filename") or ""),
            "text": [s.get("raw") for s in image["sentences"]],
        }
        for image in images
    ]


def rows_of_lines(text: str) -> list[dict[str, Any]] | None:
    """Rows of Flickr's ``picture.jpg#0<TAB>caption``; None for any other text."""
    rows = []
    for line in filter(None, map(str.strip, text.split("\n"))):
        if (hit := TOKEN.fullmatch(line)) is None:
            return None
        rows.append({"file_name": hit[1], "text": hit[2].strip()})
    return rows or None


def read_object(data: bytes) -> dict[str, Any]:
    """The JSON object beside a picture; empty for what is none."""
    try:
        whole = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return whole if isinstance(whole, dict) else {}


def captions_beside(objects: Iterable[Mapping[str, Any]], read: ReadConfig) -> str:
    """What the captions are called in the JSON beside pictures; "" where the first 20 have none."""
    for names in map(list, itertools.islice(objects, SOME)):
        columns = (read.caption_column,) if read.caption_column else caption_columns(names)
        if column := next((column for column in columns if column in names), ""):
            return column
    return ""
