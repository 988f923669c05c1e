"""Hostile and odd image files: each ends in the right pixels or in a reason, in bounded memory, never in a crash."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from pipeline.sources import Rejected
from pipeline.sources.decode import decode

RED = (200, 40, 40)


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def plain(mode: str = "RGB", size: tuple[int, int] = (80, 60)) -> Image.Image:
    return Image.new("RGB", size, RED).convert(mode)


def png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def header(width: int, height: int, depth: int = 8, colour: int = 2) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)


def deep_rgb(value: int) -> bytes:
    """A PNG of 16 bits a channel, (80, 60), grey of this value."""
    row = b"\0" + struct.pack(">H", value) * 240
    return png([header(80, 60, 16), (b"IDAT", zlib.compress(row * 60)), (b"IEND", b"")])


def turned(form: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(plain(), form, exif=exif)


def animation(form: str) -> bytes:
    frames = [Image.new("RGB", (40, 40), (60 * i, 0, 0)) for i in range(3)]
    return saved(frames[0], form, save_all=True, append_images=frames[1:])


def profiled(mode: str, profile: bytes, form: str = "JPEG") -> bytes:
    return saved(plain(mode), form, icc_profile=profile)


def text_bomb() -> bytes:
    """A small PNG whose compressed text would unpack to 200 MB."""
    bomb = b"comment\0\0" + zlib.compress(b"\0" * 200_000_000, 9)
    body = zlib.compress(b"\0" * (60 * 241))
    return png([header(80, 60), (b"zTXt", bomb), (b"IDAT", body), (b"IEND", b"")])


def pixel_bomb() -> bytes:
    """12 kB that claim 20,000 x 20,000 pixels."""
    return png([header(20_000, 20_000, 1, 0), (b"IDAT", zlib.compress(b"\0" * 1_000_000)), (b"IEND", b"")])


def lying_png() -> bytes:
    """Claims 60 million pixels, below the cap, and holds a hundred bytes."""
    return png([header(10_000, 6_000), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")])


def overflowing() -> bytes:
    """80 x 60 pixels declared; a hundred megabytes of zeros packed."""
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(b"\0" * 1_000_000) for _ in range(100)) + packer.flush()
    return png([header(80, 60), (b"IDAT", body), (b"IEND", b"")])


def tiff_loop() -> bytes:
    """A TIFF whose second directory is its first."""
    data = bytearray(saved(plain(), "TIFF"))
    start = struct.unpack("<I", data[4:8])[0]
    entries = struct.unpack("<H", data[start : start + 2])[0]
    data[start + 2 + 12 * entries : start + 6 + 12 * entries] = struct.pack("<I", start)
    return bytes(data)


def info_png(**texts: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    for name, value in texts.items():
        info.add_text(name, value)
    return saved(plain(), "PNG", pnginfo=info)


def palette_with_hole() -> bytes:
    image = Image.new("P", (80, 60), 1)
    image.putpalette([0, 0, 0, *RED])
    return saved(image, "PNG", transparency=1)


@cache
def jpeg() -> bytes:
    rng = np.random.default_rng(0)
    return saved(Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)), "JPEG", quality=90)


def lab_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def lab_tiff() -> bytes:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    picture = ImageCms.profileToProfile(plain(), srgb, lab, outputMode="LAB")
    assert picture is not None
    return saved(picture, "TIFF")


def huge_gif() -> bytes:
    start = b"GIF89a" + struct.pack("<HH", 65535, 65535)
    return start + b"\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\2D\1\0;"


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RED_INK = Image.new("CMYK", (80, 60), (0, 255, 255, 0))
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
GREY = tuple(np.array(Image.new("RGB", (1, 1), RED).convert("L").convert("RGB"))[0, 0].tolist())

#: name -> (bytes, the reason it is rejected with, or the colour that its pixels must have)
FILES: dict[str, tuple[bytes, str | tuple[int, ...]]] = {
    # not what they seem
    "empty": (b"", "not_image"),
    "one byte": (b"\xff", "not_image"),
    "html": (b"<html><body>404</body></html>", "not_image"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>", "not_image"),
    "pdf": (b"%PDF-1.7\n1 0 obj\n", "not_image"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 80 60\n(x) run\n", "not_image"),
    "zip": (b"PK\x03\x04" + b"\0" * 60, "not_image"),
    "psd": (b"8BPS\0\1" + b"\0" * 40, "not_image"),
    "ico": (saved(plain(), "ICO"), "not_image"),
    "tga": (saved(plain(), "TGA"), "not_image"),
    "ppm": (saved(plain(), "PPM"), "not_image"),
    "jpeg 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 40, "not_image"),
    "fits": (b"SIMPLE  =                    T" + b" " * 50, "not_image"),
    "zeros": (b"\0" * 5000, "not_image"),
    # cut or broken
    "png signature alone": (b"\x89PNG\r\n\x1a\n", "decode"),
    "png without data": (png([header(80, 60), (b"IEND", b"")]), "decode"),
    "png cut": (saved(Image.effect_noise((80, 60), 90), "PNG")[:1500], "decode"),
    "png wrong checksum": (saved(plain(), "PNG").replace(b"IDAT", b"IDAX"), "decode"),
    "png of no width": (png([header(0, 60), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")]), "decode"),
    "png of bad colour type": (png([header(80, 60, 8, 5), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")]), "decode"),
    "jpeg start alone": (b"\xff\xd8\xff\xe0 no more", "decode"),
    "jpeg cut": (jpeg()[: len(jpeg()) // 2], "decode"),
    "jpeg without tables": (jpeg()[:2] + jpeg()[jpeg().index(b"\xff\xc0") :], "decode"),
    "webp cut": (saved(Image.effect_noise((80, 60), 90).convert("RGB"), "WEBP")[:600], "decode"),
    "gif cut": (saved(Image.effect_noise((80, 60), 90), "GIF")[:400], "decode"),
    "tiff cut": (saved(plain(), "TIFF")[:200], "decode"),
    "bmp cut": (saved(plain(), "BMP")[:500], "decode"),
    # bombs
    "pixel bomb": (pixel_bomb(), "too_large"),
    "png that promises 60 MP": (lying_png(), "decode"),
    "bmp that promises 10^9 pixels": (
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 99, 0, 0, 54, 40, 40_000, 30_000, 1, 24, 0, 0, 0, 0, 0, 0), "too_large"
    ),
    "text bomb": (text_bomb(), "decode"),
    "gif of 65535 x 65535": (huge_gif(), "too_large"),
    # several pictures, or no agreed colours
    "gif animated": (animation("GIF"), "animated"),
    "webp animated": (animation("WEBP"), "animated"),
    "apng": (animation("PNG"), "animated"),
    "tiff of pages": (animation("TIFF"), "animated"),
    "tiff in a circle": (tiff_loop(), RED),
    "tiff float": (saved(Image.new("F", (80, 60), 0.5), "TIFF"), "unsupported_mode"),
    "tiff 32 bit": (saved(Image.new("I", (80, 60), 5), "TIFF"), "unsupported_mode"),
    "tiff lab": (lab_tiff(), "unsupported_mode"),
    # odd, and good
    "png": (saved(plain(), "PNG"), RED),
    "png with a second image behind it": (saved(plain(), "PNG") + saved(Image.new("RGB", (9, 9)), "PNG"), RED),
    "png with script in its text": (info_png(Comment="<script>alert(1)</script>", XML="\x1b[2J"), RED),
    "overflowing png": (overflowing(), BLACK),
    "png 16-bit grey": (saved(Image.fromarray(np.full((60, 80), 40_000, np.uint16)), "PNG"), (156, 156, 156)),
    "png 16-bit rgb": (deep_rgb(40_000), (156, 156, 156)),
    "png 1-bit": (saved(Image.new("1", (80, 60), 1), "PNG"), WHITE),
    "png grey": (saved(plain("L"), "PNG"), GREY),
    "png grey and alpha": (saved(Image.new("LA", (80, 60), (0, 0)), "PNG"), WHITE),
    "png clear": (saved(Image.new("RGBA", (80, 60), (*RED, 0)), "PNG"), WHITE),
    "png half clear": (saved(Image.new("RGBA", (80, 60), (0, 0, 0, 128)), "PNG"), (127, 127, 127)),
    "png palette": (saved(plain().quantize(4), "PNG"), RED),
    "png palette with a clear colour": (palette_with_hole(), WHITE),
    "png turned": (turned("PNG", 6), RED),
    "gif": (saved(plain(), "GIF"), RED),
    "bmp": (saved(plain(), "BMP"), RED),
    "tiff": (saved(plain(), "TIFF", compression="tiff_lzw"), RED),
    "tiff 16-bit grey": (saved(Image.fromarray(np.full((60, 80), 65_535, np.uint16)), "TIFF"), WHITE),
    "tiff cmyk": (saved(RED_INK, "TIFF"), (255, 0, 0)),
    "webp": (saved(plain(), "WEBP", lossless=True), RED),
    "jpeg": (saved(plain(), "JPEG", quality=98), RED),
    "jpeg grey": (saved(plain("L"), "JPEG", quality=98), GREY),
    "jpeg progressive": (saved(plain(), "JPEG", quality=98, progressive=True), RED),
    "jpeg cmyk, inverted as Adobe does": (saved(RED_INK, "JPEG", quality=98), (255, 0, 0)),
    "jpeg turned": (turned("JPEG", 8), RED),
    "jpeg with orientation 99": (turned("JPEG", 99), RED),
    "jpeg with its profile": (profiled("RGB", SRGB), RED),
    "jpeg with a broken profile": (profiled("RGB", b"no profile at all"), RED),
    "jpeg with a profile for other pixels": (profiled("RGB", lab_profile()), RED),
    "jpeg with broken exif": (saved(plain(), "JPEG", quality=98, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"), RED),
    "jpeg with 60 kB of comment": (saved(plain(), "JPEG", quality=98, comment=b"x" * 60_000), RED),
}  # fmt: skip


def test_there_are_enough_of_them() -> None:
    assert len(FILES) >= 40


@pytest.mark.parametrize("name", FILES)
def test_each_ends_in_its_pixels_or_its_reason(name: str) -> None:
    data, wanted = FILES[name]
    if isinstance(wanted, str):
        with pytest.raises(Rejected) as error:
            decode(data, 64)
        assert error.value.reason == wanted, error.value.detail
        assert "\n" not in error.value.detail
        return
    image, width, height, facts = decode(data, 64)
    assert image.dtype == np.uint8
    assert image.shape == (height, width, 3)
    assert (width, height) == ((60, 80) if "turned" in name else (80, 60))
    assert np.abs(image.astype(int) - np.array(wanted)).max() <= 4, image[0, 0]
    assert facts["format"] == name.partition(" ")[0].upper() or name.startswith("overflowing")


def test_wide_gamut_profiles_are_converted() -> None:
    """A matrix profile with exchanged red and blue primaries: its red must come out blue."""
    profile = bytearray(SRGB)
    tags = {profile[132 + 12 * i : 136 + 12 * i].decode(): 132 + 12 * i for i in range(profile[131])}
    red, blue = tags["rXYZ"], tags["bXYZ"]
    profile[red + 4 : red + 12], profile[blue + 4 : blue + 12] = (
        profile[blue + 4 : blue + 12],
        profile[red + 4 : red + 12],
    )
    text = tags["desc"]
    start = struct.unpack(">I", profile[text + 4 : text + 8])[0]
    size = struct.unpack(">I", profile[text + 8 : text + 12])[0]
    profile[start + 16 : start + size] = profile[start + 16 : start + size].replace(
        "sRGB".encode("utf-16-be"), "turn".encode("utf-16-be")
    )
    image, _, _, facts = decode(saved(Image.new("RGB", (80, 60), (255, 0, 0)), "PNG", icc_profile=bytes(profile)), 64)
    assert facts["icc"] == "applied"
    assert image[0, 0, 2] > 240
    assert image[0, 0, 0] < 30


def test_orientation_moves_corners_to_where_the_camera_saw_them() -> None:
    base = np.zeros((60, 80, 3), np.uint8)
    base[:20, :20] = 255  # top left
    for orientation, corner in {
        1: (0, 0),
        2: (0, -1),
        3: (-1, -1),
        4: (-1, 0),
        5: (0, 0),
        6: (0, -1),
        7: (-1, -1),
        8: (-1, 0),
    }.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = decode(saved(Image.fromarray(base), "PNG", exif=exif), 32)[0]
        assert image[corner].min() == 255, orientation
        assert (image[..., 0] == 255).sum() == 400


@pytest.mark.parametrize("quality", [5, 20, 50, 75, 92, 100])
def test_jpeg_quality_is_read_from_the_tables(quality: int) -> None:
    facts = decode(saved(plain(), "JPEG", quality=quality), 64)[3]
    assert abs(facts["jpeg_quality"] - quality) <= 1


def test_draft_mode_never_goes_below_the_asked_side() -> None:
    data = saved(Image.new("RGB", (1600, 1200), RED), "JPEG", quality=95)
    for side in (64, 150, 151, 300, 600, 601, 1200, 2000):
        image, width, height, _ = decode(data, side)
        assert (width, height) == (1600, 1200)
        assert min(image.shape[:2]) >= min(side, 1200)
        assert min(image.shape[:2]) < max(2 * side, 151)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_flipped_and_cut_files_never_raise_anything_else(form: str) -> None:
    rng = np.random.default_rng([7, len(form), ord(form[0])])
    whole = saved(Image.fromarray(rng.integers(0, 256, (32, 40, 3), np.uint8)), form)
    ends = {"pixels": 0, "rejected": 0}
    for _ in range(150):
        data = bytearray(whole)
        for place in rng.integers(0, len(data) if rng.random() < 0.5 else min(len(data), 120), rng.integers(1, 9)):
            data[place] = int(rng.integers(256))
        if rng.random() < 0.3:
            del data[int(rng.integers(1, len(data))) :]
        try:
            image = decode(bytes(data), 32)[0]
            assert image.ndim == 3
            assert image.dtype == np.uint8
            ends["pixels"] += 1
        except Rejected:
            ends["rejected"] += 1
    assert ends["rejected"] > 10
    assert sum(ends.values()) == 150


def test_bombs_stay_small_in_memory() -> None:
    """In a process that may not have more than half a gigabyte beyond what it starts with."""
    code = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from test_hostile_images import FILES
from pipeline.sources import Rejected
from pipeline.sources.decode import decode
words = ("bomb", "promises", "flow", "65535")
bombs = [data for name, (data, _) in FILES.items() if any(word in name for word in words)]
assert len(bombs) >= 6
del FILES
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for data in bombs:
    try: decode(data, 64)
    except Rejected as error: pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1500:]
    assert int(done.stdout) < 500_000, f"{done.stdout} kB"
