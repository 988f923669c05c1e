"""Captions as public sets ship them: texts are compared with what the set's makers wrote for that picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.contract.errors import CnlabError
from pipeline.sources.columns import ReadConfig
from pipeline.sources.folder import Folder

NAMES = ("000000000009.jpg", "000000000025.jpg", "000000000030.jpg")


def put(root: Path, *names: str) -> None:
    for n, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (60 * n, 100, 50)).save(root / name)


def write(path: Path, text: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if isinstance(text, str) else json.dumps(text))


def captions(root: Path, read: ReadConfig | None = None) -> dict[str, dict[str, str]]:
    source = Folder(str(root), 32, None, read)
    return {Path(key).name: source.load(key).captions for key in sorted(source.keys())}


def coco(*names: str) -> dict[str, Any]:
    """As COCO writes it: images and captions in orders of their own, some captions to each."""
    images = [{"id": int(n[:-4]), "file_name": n, "coco_url": f"http://host/{n}", "license": 3} for n in names]
    notes = [
        {"id": 100 + i, "image_id": image["id"], "caption": f"{word} of {image['file_name']}\n"}
        for i, word in enumerate(("first", "second"))
        for image in reversed(images)
    ]
    return {"info": {"year": 2017}, "licenses": [], "images": images, "annotations": notes}


def test_coco_with_the_lists_of_splits_that_are_not_there(tmp_path: Path) -> None:
    put(tmp_path / "train2017", *NAMES)
    write(tmp_path / "annotations/captions_train2017.json", coco(*NAMES))
    write(tmp_path / "annotations/captions_val2017.json", coco("000000000139.jpg"))
    write(tmp_path / "annotations/instances_train2017.json", {"images": [{"id": 9}], "annotations": [{"bbox": []}]})
    assert captions(tmp_path) == {name: {"metadata": f"first of {name}"} | by_name(name) for name in NAMES}
    notes = "\n".join(Folder(str(tmp_path), 32).notes)
    assert "captions_train2017.json: 3 of 3 images matched; the first of several captions is taken of 3" in notes
    assert "captions_val2017.json: 0 of 3 images matched, e.g. '000000000139.jpg'" in notes
    assert "not read: 1 .json" in notes
    (tmp_path / "annotations/captions_train2017.json").unlink()
    with pytest.raises(CnlabError, match=r"captions_val2017\.json: 0 of 3 images matched.*bring the pictures"):
        Folder(str(tmp_path), 32)


def by_name(name: str) -> dict[str, str]:
    return {"filename": name[:-4]}


def test_coco_boxes_called_captions_are_refused(tmp_path: Path) -> None:
    put(tmp_path, *NAMES)
    write(tmp_path / "captions_x.json", {**coco(*NAMES), "annotations": [{"image_id": 9, "bbox": [1, 2, 3, 4]}]})
    with pytest.raises(CnlabError, match=r"captions_x\.json: annotations without captions"):
        Folder(str(tmp_path), 32)


def test_karpathys_splits(tmp_path: Path) -> None:
    put(tmp_path / "val2014", *NAMES)
    images = [
        {"filepath": "val2014", "filename": n, "sentences": [{"raw": f"one of {n}", "tokens": []}, {"raw": "two"}]}
        for n in NAMES
    ]
    write(tmp_path / "dataset_coco.json", {"images": images, "dataset": "coco"})
    assert {k: v["metadata"] for k, v in captions(tmp_path).items()} == {n: f"one of {n}" for n in NAMES}


@pytest.mark.parametrize(
    ("file", "head", "line"),
    [
        ("captions.txt", "image,caption\n", '{name},"{text}"\n'),
        ("captions.txt", "\ufeffimage,caption\r\n", "{name},{text}\r\n"),
        ("Flickr8k.token.txt", "", "{name}#{n}\t{text} .\n"),
        ("results_20130124.token", "", "{name}#{n}\t{text}\n"),
        ("results.csv", "image_name| comment_number| comment\n", "{name}| {n}| {text}\n"),
    ],
)
def test_flickr(tmp_path: Path, file: str, head: str, line: str) -> None:
    put(tmp_path / "Images", *NAMES)
    lines = [line.format(name=name, n=n, text=f"text {n} of {name}") for name in NAMES for n in range(5)]
    (tmp_path / file).write_text(head + "".join(lines), newline="")
    read = {k: v["metadata"].removesuffix(" .") for k, v in captions(tmp_path).items()}
    assert read == {name: f"text 0 of {name}" for name in NAMES}
    assert (
        f"{file}: 3 of 3 images matched; 12 rows repeat a picture and are left out" in Folder(str(tmp_path), 32).notes
    )


def test_captions_with_commas_and_the_line_of_flickr30k_that_lacks_a_bar(tmp_path: Path) -> None:
    put(tmp_path / "Images", *NAMES)
    write(tmp_path / "captions.txt", "image,caption\n" + "".join(f"{name},A dog , a cat .\n" for name in NAMES))
    assert {k: v["metadata"] for k, v in captions(tmp_path).items()} == dict.fromkeys(NAMES, "A dog , a cat .")
    (tmp_path / "captions.txt").unlink()
    head = "image_name| comment_number| comment\n"
    lines = "".join(f"{name}| 0| A dog | a cat .\n" for name in NAMES)
    write(tmp_path / "results.csv", f"{head}{lines}{NAMES[0]}| 4   A dog runs .\n{NAMES[1]}\n")
    assert {k: v["metadata"] for k, v in captions(tmp_path).items()} == dict.fromkeys(NAMES, "A dog | a cat .")


def test_files_of_such_names_that_hold_something_else_stay_what_they_were(tmp_path: Path) -> None:
    put(tmp_path, "captions.jpg", "a.jpg")
    write(tmp_path / "captions.txt", "image,caption of a list")  # the sidecar of captions.jpg
    write(tmp_path / "results.csv", "epoch,loss\n1,2\n")
    assert captions(tmp_path)["captions.jpg"] == {"sidecar": "image,caption of a list"} | by_name("captions.jpg")
    assert "not read: 1 .csv" in Folder(str(tmp_path), 32).notes
    (tmp_path / "captions.jpg").unlink()
    write(tmp_path / "captions.txt", "a dog, running\na cat\n")
    notes = "\n".join(Folder(str(tmp_path), 32).notes)
    assert "captions: 1 files lie beside no image, e.g. captions.txt" in notes


def test_a_json_beside_each_picture(tmp_path: Path) -> None:
    put(tmp_path / "00000", "000000000.jpg", "000000001.jpg", "000000002.png", "000000003.jpg")
    write(tmp_path / "00000/000000000.json", {"caption": "a boat", "url": "http://host/1", "key": "000000000"})
    write(tmp_path / "00000/000000001.jpg.json", {"tags": ["1girl", "solo"], "rating": "s"})
    write(tmp_path / "00000/000000002.json", {"caption": " "})
    write(tmp_path / "00000/000000003.json", "{cut")
    read = captions(tmp_path)
    assert read["000000000.jpg"]["metadata"] == "a boat"
    assert read["000000001.jpg"]["metadata"] == "1girl, solo"
    assert read["000000002.png"] == {"metadata": ""}  # blank, so it is empty and not called by its name
    assert "metadata" not in read["000000003.jpg"]
    source = Folder(str(tmp_path), 32)
    assert source.load("00000/000000000.jpg").facts["url"] == "http://host/1"
    assert "captions: 4 of 4 images have a JSON beside them, e.g. 00000/000000000.json: caption" in source.notes
    before = source.fingerprint()
    write(tmp_path / "00000/000000000.json", {"caption": "a ship", "url": "http://host/1", "key": "000000000"})
    assert Folder(str(tmp_path), 32).fingerprint() != before
    chosen = captions(tmp_path, ReadConfig(caption_column="rating"))
    assert chosen["000000001.jpg"]["metadata"] == "s"


def test_json_that_holds_no_captions_is_not_read(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg")
    write(tmp_path / "a.json", {"shapes": [], "imagePath": "a.jpg"})
    assert captions(tmp_path)["a.jpg"] == {"filename": "a"}
    assert "not read: 1 .json" in Folder(str(tmp_path), 32).notes
