"""One command on a folder of photographs with planted faults: every fault is named, clean ones are left alone."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from photos import clean_photos
from PIL import Image, ImageFilter

from pipeline.contract.files import read_json

pytestmark = pytest.mark.slow

CLEAN, EACH = 220, 12


def jpeg(picture: Image.Image, path: Path, quality: int = 92) -> None:
    picture.save(path.with_suffix(".jpg"), quality=quality)


def greyscale(p: Image.Image, path: Path) -> None:
    jpeg(p.convert("L"), path)


def blurred(p: Image.Image, path: Path) -> None:
    jpeg(p.filter(ImageFilter.GaussianBlur(p.width / 40)), path)


def damaged(p: Image.Image, path: Path) -> None:
    jpeg(p, path, 6)


def letterboxed(p: Image.Image, path: Path) -> None:
    sheet = Image.new("RGB", p.size, "black")
    sheet.paste(p.resize((p.width, p.height * 2 // 3)), (0, p.height // 6))
    jpeg(sheet, path)


def uniform(p: Image.Image, path: Path) -> None:
    jpeg(Image.new("RGB", p.size, (90, 120, 60)), path)


def small(p: Image.Image, path: Path) -> None:
    jpeg(p.resize((40, 40)), path)


def wide(p: Image.Image, path: Path) -> None:
    jpeg(p.resize((p.width * 4, p.height)), path)


def truncated(p: Image.Image, path: Path) -> None:
    jpeg(p, path)
    file = path.with_suffix(".jpg")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def no_image(p: Image.Image, path: Path) -> None:
    path.with_suffix(".jpg").write_text("<html>404 not found</html>")


def same_pixels(p: Image.Image, path: Path) -> None:
    p.save(path.with_suffix(".bmp"))


def recompressed(p: Image.Image, path: Path) -> None:
    jpeg(p, path, 55)


def resized(p: Image.Image, path: Path) -> None:
    p.resize((p.width * 3 // 4, p.height * 3 // 4), Image.Resampling.BICUBIC).save(path.with_suffix(".png"))


def no_caption(p: Image.Image, path: Path) -> None:
    jpeg(p, path)
    path.with_suffix(".txt").write_text("DSC_0042")


#: fault -> (how it is planted, reasons that name it, least share found, whether the picture is one of the clean ones)
FAULTS: dict[str, tuple[Callable[[Image.Image, Path], None], set[str], float, bool]] = {
    "greyscale": (greyscale, {"greyscale"}, 1.0, False),
    "blurred": (blurred, {"blur"}, 0.9, False),
    "damaged": (damaged, {"jpeg_damage"}, 1.0, False),
    "letterboxed": (letterboxed, {"border"}, 0.9, False),
    "uniform": (uniform, {"uniform"}, 1.0, False),
    "small": (small, {"too_small"}, 1.0, False),
    "wide": (wide, {"aspect"}, 1.0, False),
    "truncated": (truncated, {"decode"}, 1.0, False),
    "no image": (no_image, {"not_image"}, 1.0, False),
    "no caption": (no_caption, {"caption_not_text"}, 1.0, False),
    "same pixels": (same_pixels, {"duplicate"}, 1.0, True),
    "recompressed": (recompressed, {"near_duplicate"}, 0.95, True),
    "resized": (resized, {"near_duplicate"}, 0.95, True),
}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    pool = [Image.fromarray(p) for p in clean_photos(CLEAN + EACH * len(FAULTS), 256)]
    captions = "a photograph of a quiet scene in daylight"
    for i, picture in enumerate(pool[:CLEAN]):
        picture.save(folder / f"clean {i:03d}.png")
        (folder / f"clean {i:03d}.txt").write_text(captions)
    rest = iter(pool[CLEAN:])
    for fault, (plant, _, _, copies) in FAULTS.items():
        for i in range(EACH):
            number = 17 * i + list(FAULTS).index(fault)
            path = folder / f"{fault} of {number:03d}.x"
            path.with_suffix(".txt").write_text(captions)
            plant(pool[number] if copies else next(rest), path)
    assert cv2.imread(str(folder / "clean 000.png")).shape == (256, 256, 3)
    return folder


def test_every_planted_fault_is_named_and_clean_photographs_pass(photographs: Path, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "pipeline.cli", "build", "--source", f"folder:{photographs}", "--size", "10k",
        "--eval-size", "30", "--image-size", "128", "--out", str(tmp_path), "--name", "set", "--workers", "0",
        "--threshold", "mirror_bits", "0", "min_crop_fit", "2",  # the clean ones are crops of five photographs
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    rejects = pd.read_parquet(tmp_path / "set" / "rejects.parquet")
    header = read_json(tmp_path / "set" / "dataset.json")
    taken = sum(header["counts"].values())
    reasons = dict(zip(rejects.key, rejects.reason, strict=True))
    for fault, (_, named, least, copies) in FAULTS.items():
        keys = [p.name for p in photographs.iterdir() if p.name.startswith(f"{fault} of") and p.suffix != ".txt"]
        found = 0
        for key in keys:
            original = f"clean {key.rsplit(' ', 1)[1].split('.')[0]}.png"
            # of two copies the one that comes later is rejected; of two that differ by a fault, the faulty one
            found += reasons.get(key) in named or (copies and reasons.get(original) in named)
        assert len(keys) == EACH
        assert found >= np.floor(least * EACH), (fault, found, Counter(reasons.get(k) for k in keys))
    false = {k: r for k, r in reasons.items() if k.startswith("clean") and "duplicate" not in r}
    assert len(false) <= CLEAN // 100, false
    assert taken + len(rejects) == CLEAN + EACH * len(FAULTS)
    assert rejects.thumbnail.notna().sum() >= len(rejects) - 2 * EACH - EACH  # none for what could not be decoded
