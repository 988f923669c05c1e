from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.contract.errors import CnlabError
from pipeline.sources import Rejected, open_source


def gradient(width: int = 120, height: int = 90) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 128 + 0 * x], 2).astype(np.uint8))


def test_captions_come_are_those_of_sidecar_metadata_then_file_name(tmp_path: Path) -> None:
    for name in ("a_red-house.png", "b.jpg", "sub/c.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        gradient().save(tmp_path / name)
    (tmp_path / "b.txt").write_text("from the sidecar\n")
    (tmp_path / "metadata.jsonl").write_text(
        json.dumps({"file_name": "sub/c.webp", "text": "from metadata"}) + "\n"
        + json.dumps({"file_name": "b.jpg", "text": "not this one"}) + "\n"
    )  # fmt: skip
    source = open_source(f"folder:{tmp_path}", 0, 64)
    assert {key: list(source.load(key).captions.items()) for key in sorted(source.keys())} == {
        "a_red-house.png": [("filename", "a red house")],
        "b.jpg": [("sidecar", "from the sidecar"), ("metadata", "not this one"), ("filename", "b")],
        "sub/c.webp": [("metadata", "from metadata"), ("filename", "c")],
    }


def test_unusable_files_are_rejected_with_a_reason(tmp_path: Path) -> None:
    gradient().save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:700])
    (tmp_path / "page.png").write_text("<html>not an image</html>")
    (tmp_path / "empty.png").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "circle.png").symlink_to("circle.png")
    (tmp_path / "dangling.png").symlink_to("nothing.png")
    (tmp_path / "inside.jpg").symlink_to("whole.jpg")
    outside = tmp_path.parent / f"{tmp_path.name}-outside.png"
    gradient().save(outside)
    (tmp_path / "leaves.png").symlink_to(outside)
    (tmp_path / "root").symlink_to("/")
    source = open_source(f"folder:{tmp_path}", 0, 64)
    reasons = {}
    for key in sorted(source.keys()):
        try:
            source.load(key)
        except Rejected as error:
            reasons[key] = error.reason
    assert set(source.keys()) == {*reasons, "whole.jpg", "inside.jpg"}
    assert reasons == {
        "cut.jpg": "decode", "page.png": "not_image", "empty.png": "not_image", "pipe.png": "unreadable",
        "circle.png": "unreadable", "dangling.png": "unreadable", "leaves.png": "unreadable",
    }  # fmt: skip


def test_given_maps_come_from_the_maps_folder_or_a_column(tmp_path: Path) -> None:
    for name in ("a.png", "sub/b.jpg", "sub/c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        gradient().save(tmp_path / name)
    (tmp_path / "maps/depth/sub").mkdir(parents=True)
    gradient(60, 45).save(tmp_path / "maps/depth/a.png")
    gradient().save(tmp_path / "maps/depth/sub/b.png")
    gradient(90, 120).save(tmp_path / "maps/depth/sub/c.png")
    (tmp_path / "labels").mkdir()
    gradient().save(tmp_path / "labels/a.bmp")
    rows = [
        {"file_name": "a.png", "text": "a", "segment_file_name": "labels/a.bmp", "license": "cc0-1.0"},
        {"file_name": "sub/b.jpg", "text": "b", "segment_file_name": "../../../etc/passwd"},
    ]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = open_source(f"folder:{tmp_path}", 0, 32)
    assert source.own_maps == ("depth", "segment")
    assert set(source.keys()) == {"a.png", "sub/b.jpg", "sub/c.jpg"}  # what the metadata calls a map is no picture
    raw = source.load("a.png")
    assert {name: m.shape for name, m in raw.maps.items()} == {"depth": (90, 120, 3), "segment": (90, 120, 3)}
    assert np.abs(raw.maps["depth"].astype(int) - raw.image).mean() < 4
    assert np.array_equal(raw.maps["segment"], raw.image)
    assert raw.facts["license"] == "cc0-1.0"
    for key, reason in (("sub/b.jpg", "map_missing"), ("sub/c.jpg", "map_size")):
        with pytest.raises(Rejected) as error:
            source.load(key)
        assert error.value.reason == reason
    assert set(open_source(f"folder:{tmp_path}", 0, 32, ("depth",)).load("sub/b.jpg").maps) == {"depth"}


def test_odd_names_and_texts_do_no_harm(tmp_path: Path) -> None:
    picture = gradient()
    names = ["caf\u00e9 \U0001f600.png", "=1+1.png", "new\nline.png", "a.b.c.png", "'; DROP TABLE x;--.png", "UP.PNG"]
    for name in names:
        picture.save(tmp_path / name)
    raw_name = os.fsencode(tmp_path) + b"/broken \xff\xfe.png"
    Path(os.fsdecode(raw_name)).write_bytes((tmp_path / "UP.PNG").read_bytes())
    picture.save(tmp_path / ".hidden.png")
    (tmp_path / "UP.txt").write_bytes("sechzehn".encode("utf-16"))
    (tmp_path / "a.b.c.txt").write_bytes(b"word " * 500_000)
    (tmp_path / "=1+1.caption").write_bytes(b"\xef\xbb\xbfwith a mark, and \xff broken")
    source = open_source(f"folder:{tmp_path}", 0, 64)
    found = {key: source.load(key) for key in sorted(source.keys())}
    assert len(found) == len(names) + 1
    for key in found:
        key.encode("utf-8")
    assert found["UP.PNG"].captions["sidecar"] == "sechzehn"
    assert len(found["a.b.c.png"].captions["sidecar"]) <= 100_000
    assert found["=1+1.png"].captions["sidecar"] == "with a mark, and \ufffd broken"
    assert source.fingerprint() == open_source(f"folder:{tmp_path}", 0, 64).fingerprint()


@pytest.mark.parametrize(
    "text", ["{", '{"text": "no name"}', "[1, 2]", "5", "[" * 100_000, '{"file_name": "a.png", "text": "x"} trailing']
)
def test_broken_metadata_is_one_clear_line(tmp_path: Path, text: str) -> None:
    gradient().save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(text)
    with pytest.raises(CnlabError, match=r"metadata.jsonl") as error:
        open_source(f"folder:{tmp_path}", 0, 64)
    assert "\n" not in str(error.value)


def test_csv_metadata_may_hold_line_breaks(tmp_path: Path) -> None:
    gradient().save(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text('file_name,text\n"a.png","two\nlines, one cell"\n')
    assert open_source(f"folder:{tmp_path}", 0, 64).load("a.png").captions["metadata"] == "two\nlines, one cell"


def test_fingerprint_follows_files_and_captions(tmp_path: Path) -> None:
    gradient().save(tmp_path / "a.png")
    first = open_source(f"folder:{tmp_path}", 0, 64).fingerprint()
    assert open_source(f"folder:{tmp_path}", 5, 64).fingerprint() == first
    (tmp_path / "a.txt").write_text("a caption")
    assert open_source(f"folder:{tmp_path}", 0, 64).fingerprint() != first


@pytest.mark.parametrize("spec", ["folder:", "folder:/nowhere/at/all", "nonsense", "folder"])
def test_bad_sources_are_one_clear_line(spec: str) -> None:
    with pytest.raises(CnlabError) as error:
        open_source(spec, 0, 64)
    assert "\n" not in str(error.value)
