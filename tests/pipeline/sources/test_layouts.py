"""Layouts that people have, each read as its makers mean it: pixels and texts are compared, not our own records."""

from __future__ import annotations

import io
import json
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.contract.errors import CnlabError
from pipeline.sources import open_source
from pipeline.sources.columns import GENERIC, ReadConfig
from pipeline.sources.folder import Folder

PHOTO, MAP = (200, 40, 90), (0, 255, 0)


def flat(colour: tuple[int, int, int], side: int = 40) -> Image.Image:
    return Image.new("RGB", (side, side), colour)


def png(colour: tuple[int, int, int]) -> bytes:
    out = io.BytesIO()
    flat(colour).save(out, "PNG")
    return out.getvalue()


def put(root: Path, name: str, colour: tuple[int, int, int] = PHOTO) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    flat(colour).save(root / name)


def middle(image: np.ndarray) -> tuple[int, ...]:
    return tuple(int(v) for v in image[20, 20])


def table(path: Path, **columns: list[object]) -> None:
    pq.write_table(pa.table(columns), path)


def cells(colour: tuple[int, int, int], count: int = 3) -> list[object]:
    return [{"bytes": png(colour), "path": None}] * count


def check(source: object, caption: str, condition: str = GENERIC) -> None:
    for key in sorted(source.keys()):  # type: ignore[attr-defined]
        raw = source.load(key)  # type: ignore[attr-defined]
        assert middle(raw.image) == PHOTO
        assert middle(raw.maps[condition]) == MAP
        assert caption in raw.captions.values()


@pytest.mark.parametrize(
    ("image", "condition", "text"),
    [
        ("image", "conditioning_image", "text"), ("target", "source", "prompt"),
        ("target_image", "conditioning_image", "text"), ("original_image", "condition", "caption"),
        ("jpg", "hint", "txt"), ("Image", "control_image", "Caption"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("map_first", [True, False])
def test_tables_are_read_by_names_and_never_by_order(
    tmp_path: Path, image: str, condition: str, text: str, map_first: bool
) -> None:
    pictures = {condition: cells(MAP), image: cells(PHOTO)}
    ordered = pictures if map_first else dict(reversed(list(pictures.items())))
    table(tmp_path / "t.parquet", **ordered, **{text: ["a pink square"] * 3})
    check(open_source(f"parquet:{tmp_path}", 0, 32), "a pink square")


def test_unclear_tables_are_refused_with_columns_and_options_that_work(tmp_path: Path) -> None:
    table(tmp_path / "t.parquet", before=cells(MAP), after=cells(PHOTO), words=["w"] * 3)
    with pytest.raises(CnlabError, match=r"which column is the picture.*before, after.*--image-column"):
        open_source(f"parquet:{tmp_path}", 0, 32)
    read = ReadConfig(image_column="after", caption_column="words", map_column=("canny=before",))
    check(open_source(f"parquet:{tmp_path}", 0, 32, None, read), "w", "canny")
    table(tmp_path / "t.parquet", photo=cells(PHOTO), picture=cells(MAP))
    with pytest.raises(CnlabError, match="picture or photo"):
        open_source(f"parquet:{tmp_path}", 0, 32)
    with pytest.raises(CnlabError, match=r"no column 'nope'.*photo, picture"):
        open_source(f"parquet:{tmp_path}", 0, 32, None, ReadConfig(image_column="nope"))
    with pytest.raises(CnlabError, match="is not NAME=COLUMN"):
        open_source(f"parquet:{tmp_path}", 0, 32, None, ReadConfig(map_column=("canny",)))


def lines(rows: list[dict[str, str]]) -> str:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


def test_diffusers_imagefolder_with_two_columns(tmp_path: Path) -> None:
    rows = []
    for i in range(3):
        put(tmp_path, f"images/{i}.png")
        put(tmp_path, f"conditioning_images/{i}.png", MAP)
        names = {"file_name": f"images/{i}.png", "conditioning_image_file_name": f"conditioning_images/{i}.png"}
        rows.append({**names, "text": "a pink square"})
    (tmp_path / "metadata.jsonl").write_text(lines(rows))
    source = open_source(f"folder:{tmp_path}", 0, 32)
    assert sorted(source.keys()) == [f"images/{i}.png" for i in range(3)]
    check(source, "a pink square")


def test_fill50k_as_its_tutorial_ships_it(tmp_path: Path) -> None:
    rows = []
    for i in range(3):
        put(tmp_path, f"target/{i}.png")
        put(tmp_path, f"source/{i}.png", MAP)
        rows.append({"source": f"source/{i}.png", "target": f"target/{i}.png", "prompt": "a pink square"})
    (tmp_path / "prompt.json").write_text(lines(rows))
    source = open_source(f"folder:{tmp_path}", 0, 32)
    assert sorted(source.keys()) == [f"target/{i}.png" for i in range(3)]
    check(source, "a pink square")


@pytest.mark.parametrize(("images", "maps"), [("image", "conditioning"), ("images", "conditioning_data")])
def test_paired_folders_of_kohya_and_simpletuner(tmp_path: Path, images: str, maps: str) -> None:
    for i in range(3):
        put(tmp_path, f"{images}/{i}.png")
        put(tmp_path, f"{maps}/{i}.png", MAP)
        (tmp_path / images / f"{i}.txt").write_text("a pink square")
    source = open_source(f"folder:{tmp_path}", 0, 32)
    assert sorted(source.keys()) == [f"{images}/{i}.png" for i in range(3)]
    check(source, "a pink square")


def test_a_folder_named_by_the_user_holds_maps(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png")
    put(tmp_path, "b/1.png", MAP)
    (tmp_path / "a/1.txt").write_text("t")
    read = ReadConfig(map_column=("canny=b/",))
    check(open_source(f"folder:{tmp_path}", 0, 32, None, read), "t", "canny")


NAMES = {
    "sub_dot.png": "./sub_dot.png",
    "sub/back slash.png": "sub\\back slash.png",
    unicodedata.normalize("NFD", "café_là.png"): "café_là.png",
    "Upper Case.PNG": "upper case.png",
    "stem_only.png": "stem_only",
}


@pytest.mark.parametrize("form", ["jsonl", "json", "csv", "semicolon", "tsv", "parquet", "bom", "utf16"])
@pytest.mark.parametrize("below", ["", "train"])
def test_metadata_in_any_folder_form_and_spelling(tmp_path: Path, form: str, below: str) -> None:
    folder = tmp_path / below
    rows = []
    for n, (file, name) in enumerate(NAMES.items()):
        put(folder, file)
        rows.append({"file_name": name, "text": f"caption, number {n}\u2028 of five"})
    head = [["file_name", "text"], *([r["file_name"], f'"{r["text"]}"'] for r in rows)]
    text = {"tsv": "\n".join("\t".join(r) for r in head), "semicolon": "\n".join(";".join(r) for r in head)}.get(
        form, "\n".join(",".join(r) for r in head)
    )
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), folder / "metadata.parquet")
    elif form in ("jsonl", "json"):
        (folder / f"metadata.{form}").write_text(lines(rows) if form == "jsonl" else json.dumps(rows))
    else:
        encoding = {"bom": "utf-8-sig", "utf16": "utf-16"}.get(form, "utf-8")
        (folder / f"metadata.{'tsv' if form == 'tsv' else 'csv'}").write_bytes(text.encode(encoding))
    source = open_source(f"folder:{tmp_path}", 0, 32)
    captions = {key: source.load(key).captions["metadata"] for key in sorted(source.keys())}
    assert sorted(captions.values()) == [f"caption, number {n}\u2028 of five" for n in range(5)]
    assert any("5 of 5 images matched" in note for note in source.notes)


def test_coverage_is_said_and_nothing_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    put(tmp_path, "b.png")
    rows = [{"file_name": name, "text": "t"} for name in ("a.png", "a.png", "gone.png")]
    (tmp_path / "metadata.jsonl").write_text(lines(rows))
    note = open_source(f"folder:{tmp_path}", 0, 32).notes[0]
    assert "1 of 2 images matched" in note
    assert "1 rows name no picture that is there, e.g. 'gone.png'" in note
    assert "1 rows repeat a picture" in note
    (tmp_path / "metadata.jsonl").write_text(lines(rows[2:]))
    with pytest.raises(CnlabError, match=r"0 of 2 images matched, e.g. 'gone.png'"):
        open_source(f"folder:{tmp_path}", 0, 32)
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,red\nb.png,a cube, parked\n")
    with pytest.raises(CnlabError, match=r"line 3: 3 fields where the header has 2 .*double quotes"):
        open_source(f"folder:{tmp_path}", 0, 32)


def test_sidecars_of_any_case_and_blank_ones(tmp_path: Path) -> None:
    for name in ("a.JPG", "b.jpg", "c.jpg", "d.jpg"):
        put(tmp_path, name)
    for name, text in (("a.TXT", "one"), ("b.jpg.txt", "two"), ("c.Caption", "three"), ("d.txt", "  \n")):
        (tmp_path / name).write_text(text)
    source = open_source(f"folder:{tmp_path}", 0, 32)
    captions = {key: source.load(key).captions for key in sorted(source.keys())}
    assert [captions[k]["sidecar"] for k in ("a.JPG", "b.jpg", "c.jpg")] == ["one", "two", "three"]
    assert "filename" not in captions["d.jpg"]  # blank, so it is empty and not called d


def test_every_file_is_accounted_for(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg")
    flat(PHOTO).save(tmp_path / "b.jfif", "JPEG")
    flat(PHOTO).save(tmp_path / "c.jpe", "JPEG")
    for name in ("d.heic", "e.CR2", "bare", "lonely.txt", "notes.md"):
        (tmp_path / name).write_bytes(b"x")
    source = open_source(f"folder:{tmp_path}", 0, 32)
    assert sorted(source.keys()) == ["a.jpg", "b.jfif", "c.jpe"]
    assert all(middle(source.load(k).image)[0] > 190 for k in sorted(source.keys()))
    said = "\n".join(source.notes)
    for part in ("1 .heic (unsupported", "1 .cr2 (unsupported", "1 without a suffix", "lonely.txt", "1 .md"):
        assert part in said


def test_links_are_followed_when_asked(tmp_path: Path) -> None:
    put(tmp_path, "blobs/x.png")
    root = tmp_path / "set"
    root.mkdir()
    (root / "link.png").symlink_to(tmp_path / "blobs/x.png")
    (root / "all").symlink_to(tmp_path / "blobs")
    (root / "all_again").symlink_to(root)
    assert any("2 linked folders are not entered" in note for note in Folder(str(root), 32).notes)
    source = Folder(str(root), 32, None, ReadConfig(follow_links=True))
    assert sorted(source.keys()) == ["all/x.png", "link.png"]
    assert middle(source.load("link.png").image) == PHOTO


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("canny/{}.png", "canny"), ("Depth/{}.png", "depth"), ("segmentation/{}.png", "segment"),
        ("control_images/{}.png", GENERIC), ("images/{}_canny.png", "canny"), ("images/{}.depth.png", "depth"),
        ("images/{}-mask.png", "mask"), ("images/{}_Normal.png", "normal"),
    ],
)  # fmt: skip
def test_maps_in_a_folder_of_their_kind_or_beside_their_pictures(tmp_path: Path, name: str, kind: str) -> None:
    for n in range(4):
        put(tmp_path, f"images/{n}.jpg")
        put(tmp_path, name.format(n), MAP)
    source = Folder(str(tmp_path), 40)
    assert source.own_maps == (kind,) and source.keys() == [f"images/{n}.jpg" for n in range(4)]
    for key in [f"images/{n}.jpg" for n in range(4)]:
        sample = source.load(key)
        assert middle(sample.image) == pytest.approx(PHOTO, abs=3) and middle(sample.maps[kind]) == MAP
    assert f"4 of 4 images have one for {kind}" in "\n".join(source.notes)


def test_a_table_of_file_names_is_told_what_to_do_and_that_works(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    pq.write_table(pa.table({"image": ["a.png"], "text": ["a red square"]}), tmp_path / "metadata.parquet")
    with pytest.raises(
        CnlabError, match=r"holds no pictures; its columns: image, text.*metadata\.parquet.*folder:PATH"
    ):
        open_source(f"parquet:{tmp_path}/metadata.parquet", 1, 40)
    assert open_source(f"folder:{tmp_path}", 1, 40).load("a.png").captions["metadata"] == "a red square"


def test_two_folders_of_maps_and_one_map_too_many(tmp_path: Path) -> None:
    for n in range(4):
        put(tmp_path, f"photos/{n}.jpg")
    for n in range(5):
        put(tmp_path, f"canny/{n}.png", MAP)
        put(tmp_path, f"depth/{n}.png", (7, 7, 7))
    source = Folder(str(tmp_path), 40)
    assert source.own_maps == ("canny", "depth") and source.keys() == [f"photos/{n}.jpg" for n in range(4)]
    assert middle(source.load("photos/3.jpg").maps["canny"]) == MAP
    assert "2 belong to no image" in "\n".join(source.notes)


def test_pictures_that_are_called_like_maps_stay_pictures_and_are_spoken_of(tmp_path: Path) -> None:
    for n in range(6):
        put(tmp_path, f"normal/{n}.jpg")
        put(tmp_path, f"mask/{n}.jpg")
    put(tmp_path, "mask/1_depth.jpg")
    source = Folder(str(tmp_path), 40)
    assert len(source.keys()) == 13 and source.own_maps == ()
    notes = "\n".join(source.notes)
    assert "mask/ and normal/ hold pictures of the same names" in notes and "--map-column NAME=normal/" in notes
    assert "1 pictures are called like maps of others, e.g. mask/1_depth.jpg" in notes
    named = Folder(str(tmp_path), 40, None, ReadConfig(map_column=("segment=mask/",)))
    assert named.own_maps == ("segment",) and named.keys() == [f"normal/{n}.jpg" for n in range(6)]


def test_metadata_of_another_encoding_is_refused_by_its_line(tmp_path: Path) -> None:
    put(tmp_path, "Bär.png")
    table = "file_name;text\nBär.png;ein größerer Bär\n"
    (tmp_path / "metadata.csv").write_bytes(table.encode("cp1252"))
    with pytest.raises(CnlabError, match=r"metadata\.csv, line 2: .*is not UTF-8; save the file as UTF-8"):
        Folder(str(tmp_path), 40)
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "metadata.csv").write_bytes(table.encode(encoding))
        assert Folder(str(tmp_path), 40).load("Bär.png").captions["metadata"] == "ein größerer Bär"


def test_columns_that_nothing_reads_are_named(tmp_path: Path) -> None:
    columns = {"image": [png(PHOTO)], "mask": [png(MAP)], "caption": ["a"], "id": ["x"], "license": ["MIT"]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    source = open_source(f"parquet:{tmp_path}", 1, 40)
    assert source.notes[1:] == ("not read: the columns mask",)
    named = open_source(f"parquet:{tmp_path}", 1, 40, None, ReadConfig(map_column=("mask=mask",)))
    assert middle(named.load("x").maps["mask"]) == MAP and len(named.notes) == 1
