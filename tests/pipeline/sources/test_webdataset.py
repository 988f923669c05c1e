from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image

from pipeline.contract.errors import CnlabError
from pipeline.sources import Rejected, open_source


def picture(value: int, form: str = "PNG", size: tuple[int, int] = (80, 60)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(out, form)
    return out.getvalue()


def member(name: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def write_tar(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return path


def sample(key: str, value: int, **json_fields: Any) -> list[tuple[tarfile.TarInfo, bytes]]:
    row = json.dumps({"caption": f"json {key}", "url": "https://example.invalid/x", **json_fields}).encode()
    parts = {"jpg": picture(value), "txt": f"text {key}".encode(), "json": row}
    return [member(f"{key}.{suffix}", data) for suffix, data in parts.items()]


def outcome(source: Any, key: str) -> Any:
    try:
        return int(source.load(key).image[0, 0, 0])
    except Rejected as error:
        return error.reason


def test_img2dataset_tars_give_images_captions_and_facts(tmp_path: Path) -> None:
    for shard in range(3):
        write_tar(tmp_path / f"{shard:05d}.tar", [m for i in range(4) for m in sample(f"{shard:05d}{i:04d}", 10 * i)])
    source = open_source(f"webdataset:{tmp_path}", 0, 32)
    assert len(source.keys()) == 12
    raw = source.load("00001/000010002")
    assert raw.captions == {"sidecar": "text 000010002", "metadata": "json 000010002"}
    assert raw.facts["url"] == "https://example.invalid/x"
    assert (raw.width, raw.height, int(raw.image[0, 0, 0])) == (80, 60, 20)
    ways = [f"{tmp_path}/*.tar", f"{tmp_path}/{{00000..00002}}.tar", f"file://{tmp_path}/0000[0-2].tar"]
    for way in ways:
        other = open_source(f"webdataset:{way}", 0, 32)
        assert sorted(other.keys()) == sorted(source.keys())
        assert other.fingerprint() == source.fingerprint()
    assert len(open_source(f"webdataset:{tmp_path}/{{00000..00001}}.tar", 0, 32).keys()) == 8


def test_any_fsspec_filesystem_serves(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", sample("x", 7))
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/a.tar", path.read_bytes())
    source = open_source("webdataset:memory://bucket/*.tar", 0, 32)
    assert outcome(source, "a/x") == 7
    first = source.fingerprint()
    write_tar(path, [*sample("x", 7), *sample("y", 8)])
    memory.pipe("/bucket/a.tar", path.read_bytes())
    assert open_source("webdataset:memory://bucket/a.tar", 0, 32).fingerprint() != first


def test_maps_beside_images_are_given_and_must_fit(tmp_path: Path) -> None:
    members = [
        *sample("a", 10), member("a.depth.png", picture(99)), member("a.normal.png", picture(50, size=(40, 30))),
        *sample("b", 20), member("b.depth.png", picture(99, size=(60, 80))),
    ]  # fmt: skip
    write_tar(tmp_path / "t.tar", members)
    source = open_source(f"webdataset:{tmp_path}", 0, 32)
    assert source.own_maps == ("depth", "normal")
    maps = source.load("t/a").maps
    assert {name: (m.shape, int(m[5, 5, 0])) for name, m in maps.items()} == {
        "depth": ((60, 80, 3), 99), "normal": ((60, 80, 3), 50),
    }  # fmt: skip
    assert outcome(source, "t/b") == "map_size"
    assert outcome(open_source(f"webdataset:{tmp_path}", 0, 32, ("normal",)), "t/b") == 20
    assert set(open_source(f"webdataset:{tmp_path}", 0, 32, ("normal",)).load("t/a").maps) == {"normal"}


def hostile(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    good = picture(9)
    members = [
        member("../../escape.png", good),
        member("/absolute.png", good),
        member("a/../../up.png", good),
        member("back\\slash.png", good),
        member("link.png", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("hard.png", b"", type=tarfile.LNKTYPE, linkname="fine.png"),
        member("pipe.png", b"", type=tarfile.FIFOTYPE),
        member("device.png", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
        member("twice.png", good),
        member("twice.png", picture(99)),
        member("alone.txt", b"a caption without a picture"),
        member("broken.jpg", b"\xff\xd8\xff not one"),
        member("html.jpg", b"<html>"),
        member("empty.png", b""),
        member("._fine.png", b"resource fork"),
        member("dir.png", b"", type=tarfile.DIRTYPE),
        member("badjson.png", good),
        member("badjson.json", b"[" * 90_000),
        member("bigtext.png", good),
        member("bigtext.txt", b"word " * 1_000_000),
        member("deep/" * 40 + "x.png", good),
        member("caf\u00e9 \U0001f600.png", good),
        member("movie.mp4", b"0" * 999),
        member("fine.png", good),
    ]
    wanted = {
        "h/../../escape": "unsafe_member", "/absolute": "unsafe_member", "h/a/../../up": "unsafe_member",
        "h/back\\slash": "unsafe_member", "h/link": "unsafe_member", "h/hard": "unsafe_member",
        "h/pipe": "unsafe_member", "h/device": "unsafe_member", "h/twice": "duplicate_name", "h/alone": "no_image",
        "h/broken": "decode", "h/html": "not_image", "h/empty": "not_image", "h/badjson": 9, "h/bigtext": 9,
        "h/" + "deep/" * 40 + "x": 9, "h/caf\u00e9 \U0001f600": 9, "h/fine": 9,
    }  # fmt: skip
    return write_tar(tmp_path / "h.tar", members), wanted


def test_hostile_members_are_rejected_by_name_and_nothing_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "in" / "side"
    folder.mkdir(parents=True)
    _, wanted = hostile(folder)
    before = sorted(tmp_path.rglob("*"))
    source = open_source(f"webdataset:{folder}", 0, 32)
    assert {key: outcome(source, key) for key in sorted(source.keys())} == wanted
    assert sorted(tmp_path.rglob("*")) == before
    assert len(source.load("h/bigtext").captions["sidecar"]) <= 100_000
    assert source.load("h/badjson").captions == {}
    assert sum(isinstance(v, str) for v in wanted.values()) >= 10


def test_broken_archives_lose_nothing_silently(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "whole.tar", [m for i in range(5) for m in sample(f"s{i}", i)]).read_bytes()
    with tarfile.open(tmp_path / "whole.tar") as archive:
        cut = archive.getmember("s3.jpg").offset_data + 40
        header = archive.getmember("s3.jpg").offset
    (tmp_path / "cut.tar").write_bytes(whole[:cut])
    damaged = bytearray(whole)
    damaged[header + 148 : header + 156] = b"badcheck"
    (tmp_path / "sum.tar").write_bytes(damaged)
    (tmp_path / "page.tar").write_text("<html>not found</html>")
    (tmp_path / "none.tar").write_bytes(b"")
    giant = tarfile.TarInfo("giant.png")
    giant.size = 2**40
    (tmp_path / "giant.tar").write_bytes(giant.tobuf(tarfile.GNU_FORMAT) + b"x" * 2000)
    negative = bytearray(giant.tobuf(tarfile.GNU_FORMAT))
    negative[124:136] = b"\xff" * 12  # base 256: minus one
    negative[148:156] = b"%06o\0 " % (sum(negative[:148]) + 256 + sum(negative[156:512]))
    (tmp_path / "minus.tar").write_bytes(bytes(negative) + b"x" * 2000)
    source = open_source(f"webdataset:{tmp_path}", 0, 32)
    found = {key: outcome(source, key) for key in sorted(source.keys())}
    for i in range(3):
        assert found[f"cut/s{i}"] == found[f"sum/s{i}"] == found[f"whole/s{i}"] == i
    assert found["cut/s3"] == "truncated"
    for tar in ("cut", "giant", "sum", "page", "none", "minus"):
        assert found.get(f"{tar}/?") == "truncated", (tar, found)
    assert found["giant/giant"] == "too_large"


def test_a_sparse_member_is_not_unpacked(tmp_path: Path) -> None:
    """A GNU sparse header that claims 8 TB."""
    info = tarfile.TarInfo("sparse.png")
    info.type = tarfile.GNUTYPE_SPARSE
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[386:398], block[398:410] = b"00000000000\0", b"00000000010\0"
    block[483:495] = b"\x80" + (2**43).to_bytes(11, "big")
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + 256 + sum(block[156:512]))
    good = write_tar(tmp_path / "good.tar", sample("fine", 3)).read_bytes()
    (tmp_path / "good.tar").write_bytes(bytes(block) + good)
    source = open_source(f"webdataset:{tmp_path}", 0, 32)
    assert {key: outcome(source, key) for key in sorted(source.keys())} == {
        "good/sparse": "unsafe_member",
        "good/fine": 3,
    }


@pytest.mark.slow
def test_many_members_stay_small_in_memory(tmp_path: Path) -> None:
    members = [member(f"{i:06d}.txt", b"") for i in range(60_000)]
    write_tar(tmp_path / "many.tar", [*members, *sample("fine", 3)], tarfile.USTAR_FORMAT)
    code = (
        "import resource, sys\nfrom pipeline.sources.webdataset import WebDataset\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "source = WebDataset(sys.argv[1], 32)\nassert len(source.keys()) == 60_001\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 120_000, f"{done.stdout} kB for 60,000 samples"


def test_flipped_bytes_never_raise_anything_else(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "x.tar", [m for i in range(4) for m in sample(f"s{i}", i)]).read_bytes()
    rng = np.random.default_rng(5)
    ends = {"opened": 0, "refused": 0}
    for _ in range(60):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), rng.integers(1, 20)):
            data[place] = int(rng.integers(256))
        head = int(rng.integers(12)) * 512
        data[head + int(rng.integers(512))] = int(rng.integers(256))
        (tmp_path / "x.tar").write_bytes(data)
        try:
            source = open_source(f"webdataset:{tmp_path}", 0, 32)
            for key in sorted(source.keys()):
                outcome(source, key)
            ends["opened"] += 1
        except CnlabError as error:
            assert "\n" not in str(error)
            ends["refused"] += 1
    assert ends["opened"] > 20


@pytest.mark.parametrize("where", ["", "/nowhere/x.tar", "/nowhere/*.tar", "gopher://x/y.tar", "/nowhere/{0..9}.tar"])
def test_bad_places_are_one_clear_line(where: str) -> None:
    with pytest.raises(CnlabError) as error:
        open_source(f"webdataset:{where}", 0, 32)
    assert "\n" not in str(error.value)


def test_compressed_or_empty_tars_are_refused(tmp_path: Path) -> None:
    packed = write_tar(tmp_path / "a.tar", sample("a", 1))
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(packed.read_bytes()))
    with pytest.raises(CnlabError, match="compressed"):
        open_source(f"webdataset:{tmp_path}/a.tar.gz", 0, 32)
    write_tar(tmp_path / "texts.tar", [member("a.txt", b"words")])
    with pytest.raises(CnlabError, match="no usable sample"):
        open_source(f"webdataset:{tmp_path}/texts.tar", 0, 32)
    write_tar(tmp_path / "one.tar", sample("a", 1))
    (tmp_path / "sub").mkdir()
    write_tar(tmp_path / "sub" / "one.tar", sample("a", 1))
    with pytest.raises(CnlabError, match="two tars"):
        open_source(f"webdataset:{tmp_path}/**/one.tar", 0, 32)


def test_dots_within_names_and_maps_that_come_first(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for name, data in (
            ("a.v2.mine.png", picture(20)), ("a.v2.jpg", picture(90)), ("a.v2.txt", b"two dots"),
            ("b.1.jpg", picture(120)),
            ("b.1.jpg.txt", b"a suffix more"), ("c.jpg", picture(40)), ("c.hint.png", picture(60)), ("c.cls", b"3"),
        ):  # fmt: skip
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    source = open_source(f"webdataset:{tmp_path}", 0, 32)
    assert sorted(source.keys()) == ["t/a.v2", "t/b.1", "t/c"]
    assert set(source.own_maps) == {"mine", "conditioning_image"}
    assert set(source.load("t/a.v2").maps) == {"mine"}
    assert source.load("t/a.v2").captions == {"sidecar": "two dots"}
    assert source.load("t/b.1").captions == {"sidecar": "a suffix more"}
    assert set(source.load("t/c").maps) == {"conditioning_image"}
    assert any("1 .cls" in note for note in source.notes)
