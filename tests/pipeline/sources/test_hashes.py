from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import config as datasets_config
from photos import clean_photos
from PIL import Image

from pipeline.sources import hashes, open_source
from pipeline.sources.hashes import content_hashes


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path / "datasets")


def folder(root: Path) -> str:
    for n, picture in enumerate(clean_photos(3, 96)):
        Image.fromarray(picture).save(root / f"{n}.png")
        (root / f"{n}.txt").write_text(f"caption {n}")
    return f"folder:{root}"


def tars(root: Path) -> str:
    Image.fromarray(clean_photos(1, 96)[0]).save(root / "0.png")
    with tarfile.open(root / "00000.tar", "w") as tar:
        tar.add(root / "0.png", "0.png")
    (root / "0.png").unlink()
    return f"webdataset:{root}"


def table(root: Path) -> str:
    folder(root)
    cells = [{"bytes": (root / f"{n}.png").read_bytes(), "path": None} for n in range(3)]
    for path in list(root.iterdir()):
        path.unlink()
    pq.write_table(pa.Table.from_pylist([{"image": cell, "text": "a"} for cell in cells]), root / "a.parquet")
    return f"parquet:{root}"


def hub(root: Path) -> str:
    name = folder(root).replace("folder:", "hub:")
    for path in root.glob("*.txt"):
        path.unlink()
    return name


@pytest.mark.parametrize("make", [folder, tars, table, hub])
def test_touched_and_copied_files_are_the_same_source_and_changed_ones_are_not(
    tmp_path: Path, make: Callable[[Path], str]
) -> None:
    root = tmp_path / "source"
    root.mkdir()
    name = make(root)
    fingerprint = lambda where: open_source(where, 1, 64).fingerprint()  # noqa: E731
    first = fingerprint(name)
    for path in root.iterdir():
        os.utime(path, (1e9, 1e9))
    assert fingerprint(name) == first
    shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile)
    assert fingerprint(name.replace("source", "copy")) == first
    changed = sorted(root.iterdir())[0]
    stamp, content = changed.stat(), bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    os.utime(changed, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # of the same size and time
    assert fingerprint(name) != first


def test_an_unchanged_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "SETTLED", 0)
    path = tmp_path / os.fsdecode(b"p\xff.bin")
    path.write_bytes(b"abc")
    paths = [path, tmp_path, tmp_path / "missing"]
    assert content_hashes(paths) == [hashlib.sha256(b"abc").hexdigest(), "", ""]
    monkeypatch.setattr(hashes, "sha256_file", lambda path: "read again")
    assert content_hashes(paths)[0] == hashlib.sha256(b"abc").hexdigest()
    path.write_bytes(b"abd")
    assert content_hashes(paths)[0] == "read again"


def test_a_damaged_memory_costs_time_alone(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    memory = tmp_path / "cache" / "controlnet-lab" / "hashes.sqlite"
    memory.parent.mkdir(parents=True)
    memory.write_bytes(b"not a database" * 100)
    assert content_hashes([path]) == [hashlib.sha256(b"abc").hexdigest()]
