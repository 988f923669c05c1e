"""At least 300 disjoint crops of photographs as people have them, with planted faults and odd formats, in one build.

The photographs are scikit-image's and, where ``CNLAB_PHOTOGRAPHS`` names a folder (measured with Debian's
lomiri-wallpapers-16.04, docs/datasets.md), those in it, at a quarter of their size: their own JPEG blocks are gone.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageCms, ImageFilter

from pipeline.build.run import build
from pipeline.config import DatasetConfig
from pipeline.contract.dataset import Triplets
from pipeline.contract.pictures import decode_image

pytestmark = pytest.mark.proof
SIDE = 64  # pixels
EACH = 12  # of each fault and odd format
CLEAN_FORMS = ("png", "jpg", "webp")
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
Plant = Callable[[Image.Image, Path], None]


def crops() -> list[Image.Image]:
    """Disjoint squares of 64 pixels, in colour and in focus by measures that are not the screens'."""
    from skimage import data

    photos = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket(), data.stereo_motorcycle()[0]]
    more = os.environ.get("CNLAB_PHOTOGRAPHS")
    for path in sorted(Path(more).expanduser().rglob("*.jpg")) if more else []:
        photo = Image.open(path).convert("RGB")
        photos.append(np.array(photo.resize((photo.width // 4, photo.height // 4), Image.Resampling.BOX)))
    taken = []
    for photo in photos:
        for top in range(0, photo.shape[0] - SIDE + 1, SIDE):
            for left in range(0, photo.shape[1] - SIDE + 1, SIDE):
                tile = np.ascontiguousarray(photo[top : top + SIDE, left : left + SIDE])
                grey = cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY)
                lab = cv2.cvtColor(tile.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
                edges = float(np.quantile(np.abs(cv2.Laplacian(grey, cv2.CV_32F)), 0.95))
                if (
                    edges > max(50.0, 1.8 * float(grey.std()))
                    and grey.std() > 15
                    and lab[..., 1:].std((0, 1)).sum() > 7
                ):
                    taken.append(Image.fromarray(tile))
    order = np.random.default_rng(0).permutation(len(taken))
    return [taken[i] for i in order]


def save(picture: Image.Image, path: Path, form: str = "jpg", **options: object) -> None:
    quality = {} if form in ("png", "bmp", "tif") else {"quality": 92}
    picture.save(path.with_suffix(f".{form}"), **{**quality, **options})  # type: ignore[arg-type]


def truncated(p: Image.Image, path: Path) -> None:
    save(p, path)
    file = path.with_suffix(".jpg")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def barred(p: Image.Image, path: Path) -> None:
    sheet = Image.new("RGB", p.size, "black")
    sheet.paste(p.resize((p.width, p.height * 2 // 3)), (0, p.height // 6))
    save(sheet, path, "png")


def low_quality(p: Image.Image, path: Path) -> None:
    save(p, path, quality=5)


def low_quality_inside(p: Image.Image, path: Path) -> None:
    save(p, path, quality=10)
    save(Image.open(path.with_suffix(".jpg")), path, "png")
    path.with_suffix(".jpg").unlink()


def mirrored(p: Image.Image, path: Path) -> None:
    save(p.transpose(Image.Transpose.FLIP_LEFT_RIGHT), path, "png")


def no_image(p: Image.Image, path: Path) -> None:
    path.with_suffix(".jpg").write_text("<html>404 not found</html>")


def blank_caption(p: Image.Image, path: Path) -> None:
    save(p, path)
    path.with_suffix(".txt").write_text(" \n")


#: fault -> (how it is planted, reasons that name it, whether the picture is one of the clean ones)
FAULTS: dict[str, tuple[Plant, set[str], bool]] = {
    "exact": (lambda p, path: save(p, path, "bmp"), {"duplicate", "near_duplicate"}, True),
    "recompressed": (lambda p, path: save(p, path, quality=60), {"near_duplicate"}, True),
    "resized": (lambda p, path: save(p.resize((p.width * 2, p.height * 2)), path, "png"), {"near_duplicate"}, True),
    "mirrored": (mirrored, {"mirrored_copy"}, True),
    "grey": (lambda p, path: save(p.convert("L"), path), {"greyscale"}, False),
    "blurred": (lambda p, path: save(p.filter(ImageFilter.GaussianBlur(3)), path), {"blur"}, False),
    "q5": (low_quality, {"jpeg_damage"}, False),
    "q10 in png": (low_quality_inside, {"jpeg_damage"}, False),
    "truncated": (truncated, {"decode"}, False),
    "no image": (no_image, {"not_image"}, False),
    "tiny": (lambda p, path: save(p.resize((40, 40)), path), {"too_small"}, False),
    "bars": (barred, {"border"}, False),
    "flat": (lambda p, path: save(Image.new("RGB", p.size, p.getpixel((0, 0))), path), {"uniform"}, False),
    "blank caption": (blank_caption, {"caption_empty"}, False),
}  # fmt: skip


def turned(orientation: int) -> Plant:
    """As a phone saves it: the pixels lie otherwise, EXIF says how."""
    undo = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT], 3: [Image.Transpose.ROTATE_180], 4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE], 6: [Image.Transpose.ROTATE_90], 7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }[orientation]  # fmt: skip

    def plant(p: Image.Image, path: Path) -> None:
        for step in undo:
            p = p.transpose(step)
        exif = Image.Exif()
        exif[0x0112] = orientation
        save(p, path, exif=exif, quality=97, subsampling=0)

    return plant


def see_through(p: Image.Image, path: Path) -> None:
    alpha = Image.new("L", p.size, 255)
    alpha.paste(0, (0, 0, p.width // 3, p.height))
    p.putalpha(alpha)
    save(p, path, "png")


def on_white(p: Image.Image) -> Image.Image:
    p = p.copy()
    p.paste((255, 255, 255), (0, 0, p.width // 3, p.height))
    return p


def same(p: Image.Image) -> Image.Image:
    return p


#: form -> (how it is saved, what must be taken, mean difference that is allowed, of 255)
ODD: dict[str, tuple[Plant, Callable[[Image.Image], Image.Image], float]] = {
    "cmyk": (lambda p, path: save(p.convert("CMYK"), path, quality=97, subsampling=0), same, 6),
    "palette": (lambda p, path: save(p.quantize(256), path, "png"), same, 9),
    "alpha": (see_through, on_white, 3),
    "tiff": (lambda p, path: save(Image.fromarray(np.asarray(p)), path, "tif"), same, 3),
    "profile": (lambda p, path: save(p, path, "png", icc_profile=SRGB), same, 3),
    **{f"exif{o}": (turned(o), same, 5) for o in range(2, 9)},
}  # fmt: skip


@pytest.fixture(scope="module")
def pool() -> list[Image.Image]:
    if not os.environ.get("CNLAB_PHOTOGRAPHS"):  # 66 crops of the bundled ones are in colour and in focus: too few
        pytest.skip("CNLAB_PHOTOGRAPHS names no folder of photographs (docs/datasets.md says which were used)")
    found = crops()
    assert len(found) >= 300
    return found


def plant_all(folder: Path, pool: list[Image.Image]) -> tuple[int, dict[str, tuple[str, Image.Image]]]:
    """Number of clean pictures; key of each odd one -> (form, what it shows)."""
    spare = (sum(not copy for _, _, copy in FAULTS.values())) * (EACH // 2) + len(ODD) * 3
    clean, rest = pool[:-spare], iter(pool[-spare:])
    caption = "a photograph of a quiet scene in daylight"
    for i, picture in enumerate(clean):
        save(picture, folder / f"clean {i:03d}.x", CLEAN_FORMS[i % 3])
        (folder / f"clean {i:03d}.txt").write_text(caption)
    for fault, (plant, _, copy) in FAULTS.items():
        for i in range(EACH if copy else EACH // 2):
            number = (29 * i + 3 * list(FAULTS).index(fault)) % len(clean)
            path = folder / f"{fault} of {number:03d}.x"
            path.with_suffix(".txt").write_text(caption)
            plant(clean[number].copy() if copy else next(rest).copy(), path)
    odd = {}
    for form, (plant, _, _) in ODD.items():
        for i in range(3):
            picture, path = next(rest), folder / f"{form} {i}.x"
            path.with_suffix(".txt").write_text(caption)
            plant(picture.copy(), path)
            odd[f"{form} {i}"] = (form, picture)
    return len(clean), odd


def test_faults_are_named_clean_ones_pass_and_odd_formats_are_taken_right(
    pool: list[Image.Image], tmp_path: Path
) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    clean, odd = plant_all(folder, pool)
    config = DatasetConfig(
        source=f"folder:{folder}", size="10k", eval_size=40, image_size=SIDE, image_format="png", workers=0,
        out=tmp_path, name="set",
    )  # fmt: skip
    header = build(config)
    rejects = pd.read_parquet(config.folder / "rejects.parquet")
    reasons = dict(zip(rejects.key, rejects.reason, strict=True))
    missed = Counter[str]()
    for path in folder.glob("* of *"):
        fault, _, number = path.stem.partition(" of ")
        if path.suffix != ".txt":
            original = f"clean {number}.{CLEAN_FORMS[int(number) % 3]}"
            named, copy = FAULTS[fault][1:]
            missed[fault] += not (reasons.get(path.name) in named or (copy and reasons.get(original) in named))
    copied = {f"clean {p.stem[-3:]}.{CLEAN_FORMS[int(p.stem[-3:]) % 3]}" for p in folder.glob("* of *")}
    alarms = {
        k: r for k, r in reasons.items() if k.startswith("clean") and not (k in copied and ("copy" in r or "dup" in r))
    }
    print(len(pool), "crops,", clean, "clean;", dict(missed), alarms)
    assert sum(missed.values()) == 0, missed
    assert len(alarms) <= clean / 100, alarms
    assert sum(header["counts"].values()) + len(rejects) == sum(p.suffix != ".txt" for p in folder.iterdir())
    triplets = Triplets(config.folder)
    rows = [r for s in ("train", "eval") for r in triplets.table(s, ["key", "image"]).to_pylist()]
    stored = {row["key"].rpartition(".")[0]: decode_image(row["image"]["bytes"]) for row in rows}
    for name, (form, picture) in odd.items():
        expected = np.asarray(ODD[form][1](picture).resize((SIDE, SIDE), Image.Resampling.BOX), float)
        assert name in stored, (name, reasons)
        assert np.abs(stored[name] - expected).mean() < ODD[form][2], name
