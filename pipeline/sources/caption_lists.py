"""Captions as public sets ship them: COCO, Karpathy's splits, Flickr8k and Flickr30k; and a JSON beside each picture.

They name pictures that lie in another folder, by their bare names, and give several captions to each: the first one is
taken, and the build says so.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Mapping, Sequence
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
    """Whether the first line of a list that is no JSON is one, for others have files of such names too."""
    with path.open("rb") as file:
        line = read_text(file.read(4096)).partition("\n")[0].strip()
    cells = {cell.strip().strip('"').lower() for cell in re.split(r"[,;\t|]", line)}
    headed = cells & {*FILE_NAMES, *IMAGE_NAMES} and cells & set(TEXT_NAMES)
    return path.suffix.lower() == ".json" or TOKEN.fullmatch(line) is not None or bool(headed)


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
    lines = [line for line in text.splitlines() if line.strip()]
    hits = [TOKEN.fullmatch(line) for line in lines]
    if not lines or not all(hits):
        return None
    return [{"file_name": hit[1], "text": hit[2].strip()} for hit in hits if hit]


def read_object(data: bytes) -> dict[str, Any]:
    """The JSON object beside a picture; empty for what is none."""
    try:
        whole = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return {}
    return whole if isinstance(whole, dict) else {}


def captions_beside(root: Path, files: Sequence[str], read: ReadConfig) -> str:
    """What the JSON files beside the pictures are called that holds captions; "" where none of the first 20 has one."""
    for file in files[:SOME]:
        names = list(read_object((root / file).read_bytes()))
        own = (read.caption_column,) if read.caption_column in names else ()
        if columns := own or (() if read.caption_column else caption_columns(names)):
            return columns[0]
    return ""
