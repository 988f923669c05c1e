from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.build.run import build
from pipeline.build.verify import damaged_files, verify
from pipeline.config import DatasetConfig, VerifyConfig
from pipeline.contract.errors import CnlabError
from pipeline.contract.files import read_json
from pipeline.contract.identity import sha256_file

SHARDS = ["eval-00000.parquet", *(f"train-{i:05d}.parquet" for i in range(4))]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = DatasetConfig(
        size="60", eval_size=12, block=16, image_size=32, out=tmp_path_factory.mktemp("clean"), workers=0
    )
    build(made)
    return made.folder


@pytest.fixture
def copy(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / clean.name))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(bytes(data))


def flip_footer(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-200] ^= 1
    path.write_bytes(bytes(data))


DAMAGE = [truncate, zero, flip_bit, flip_footer, Path.unlink]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.slow
def test_damage_is_named_and_only_it_is_built_again(damage, clean: Path, copy: Path) -> None:  # type: ignore[no-untyped-def]
    broken = ["train-00001.parquet", "eval-00000.parquet"]
    for name in broken:
        damage(copy / name)
    assert sorted(damaged_files(copy)) == sorted(broken)
    with pytest.raises(CnlabError, match="2 of 6 files are missing or damaged"):
        verify(VerifyConfig(copy))
    kept = {n: (copy / n).stat().st_ino for n in SHARDS if n not in broken}
    verify(VerifyConfig(copy, repair=True))
    assert {n: sha256_file(copy / n) for n in SHARDS} == {n: sha256_file(clean / n) for n in SHARDS}
    assert {n: (copy / n).stat().st_ino for n in kept} == kept
    assert read_json(copy / "dataset.json")["shards"] == read_json(clean / "dataset.json")["shards"]
    verify(VerifyConfig(copy))


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.slow
def test_an_unfinished_build_trusts_nothing_that_changed(damage, clean: Path, copy: Path) -> None:  # type: ignore[no-untyped-def]
    (copy / "dataset.json").unlink()
    damage(copy / "train-00002.parquet")
    kept = {n: (copy / n).stat().st_ino for n in SHARDS if n != "train-00002.parquet"}
    build(DatasetConfig(size="60", eval_size=12, block=16, image_size=32, out=copy.parent, name=copy.name, workers=0))
    assert {n: sha256_file(copy / n) for n in SHARDS} == {n: sha256_file(clean / n) for n in SHARDS}
    assert {n: (copy / n).stat().st_ino for n in kept} == kept


def test_a_whole_set_passes_and_a_stranger_is_refused(copy: Path, capsys, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    verify(VerifyConfig(copy))
    assert "6 files, all as built" in capsys.readouterr().out
    with pytest.raises(CnlabError, match="not a finished dataset"):
        verify(VerifyConfig(tmp_path))


def test_an_interrupted_repair_goes_on(clean: Path, copy: Path) -> None:
    (copy / "train-00001.parquet").unlink()
    (copy / "dataset.json").rename(copy / ".dataset.json.before")
    with pytest.raises(CnlabError, match="missing or damaged"):
        verify(VerifyConfig(copy))
    verify(VerifyConfig(copy, repair=True))
    assert sha256_file(copy / "train-00001.parquet") == sha256_file(clean / "train-00001.parquet")
    assert not (copy / ".dataset.json.before").exists()


def test_a_changed_source_is_not_passed_off_as_a_repair(copy: Path, tmp_path: Path) -> None:
    (copy / "train-00001.parquet").unlink()
    photos = tmp_path / "photos"
    photos.mkdir()
    from PIL import Image

    Image.effect_noise((80, 80), 60).convert("RGB").save(photos / "a.png")
    with pytest.raises(CnlabError, match="has changed since"):
        verify(VerifyConfig(copy, repair=True, source=f"folder:{photos}"))
    assert (copy / "dataset.json").exists()


def test_without_the_builds_options_there_is_no_repair(copy: Path) -> None:
    (copy / ".build.json").unlink()
    (copy / "train-00001.parquet").unlink()
    with pytest.raises(CnlabError, match="build's own command"):
        verify(VerifyConfig(copy, repair=True))
    assert (copy / "dataset.json").exists()
