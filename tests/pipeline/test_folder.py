from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.io import CnlabError
from pipeline.sources import Rejected, open_source


def gradient(width: int = 120, height: int = 90) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 128 + 0 * x], 2).astype(np.uint8))


def test_captions_come_from_sidecar_then_metadata_then_file_name(tmp_path: Path) -> None:
    for name in ("a_red-house.png", "b.jpg", "sub/c.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        gradient().save(tmp_path / name)
    (tmp_path / "b.txt").write_text("from the sidecar\n")
    (tmp_path / "metadata.jsonl").write_text(
        json.dumps({"file_name": "sub/c.webp", "text": "from metadata"}) + "\n"
        + json.dumps({"file_name": "b.jpg", "text": "not this one"}) + "\n"
    )  # fmt: skip
    source = open_source(f"folder:{tmp_path}", 0, 64)
    said = {k: (s.text, s.caption_source) for k in sorted(source.keys()) for s in [source.load(k)]}
    assert said == {
        "a_red-house.png": ("a red house", "filename"),
        "b.jpg": ("from the sidecar", "sidecar"),
        "sub/c.webp": ("from metadata", "metadata"),
    }


def test_exif_orientation_is_baked_in(tmp_path: Path) -> None:
    upright = gradient(90, 90)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate 90 degrees clockwise to view
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    upright.save(tmp_path / "plain.png")
    source = open_source(f"folder:{tmp_path}", 0, 90)
    assert np.array_equal(source.load("turned.png").image, source.load("plain.png").image)


def test_alpha_is_composited_on_white(tmp_path: Path) -> None:
    Image.new("RGBA", (80, 80), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (open_source(f"folder:{tmp_path}", 0, 64).load("clear.png").image == 255).all()


def test_unusable_files_are_rejected_with_a_reason(tmp_path: Path) -> None:
    gradient().save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:700])
    (tmp_path / "page.png").write_text("<html>not an image</html>")
    (tmp_path / "empty.png").write_bytes(b"")
    Image.fromarray(np.full((80, 80), 40_000, np.uint16)).save(tmp_path / "deep.png")
    Image.new("1", (9_000, 9_000)).save(tmp_path / "bomb.png")
    source = open_source(f"folder:{tmp_path}", 0, 64)
    reasons = {}
    for key in sorted(source.keys()):
        try:
            source.load(key)
        except Rejected as error:
            reasons[key] = error.reason
    assert reasons == {
        "cut.jpg": "decode", "page.png": "not_image", "empty.png": "not_image", "deep.png": "not_image",
        "bomb.png": "too_large",
    }  # fmt: skip


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
