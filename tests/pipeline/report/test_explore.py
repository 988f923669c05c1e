"""What `explore` says that other thresholds would do, against builds with these thresholds."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from photos import clean_photos
from PIL import Image

from pipeline.build.run import build
from pipeline.config import DatasetConfig, ExploreConfig
from pipeline.contract.dataset import Triplets
from pipeline.contract.errors import CnlabError
from pipeline.report.candidates import collect
from pipeline.report.explore import explore


def config(photos: Path, out: Path, name: str, **threshold: float) -> DatasetConfig:
    return DatasetConfig(
        source=f"folder:{photos}", size="100", eval_size=30, eval_share=0.2, image_size=64, block=16, workers=0,
        out=out, name=name, threshold=threshold, duplicates="off",  # what is taken might be a copy of something
    )  # fmt: skip


def plant(folder: Path) -> None:
    """24 clean photographs, and one fault each on twelve others: blur of three strengths, grey, JPEG, captions."""
    folder.mkdir()
    for i, photo in enumerate(clean_photos(37, 96)):
        path, text = folder / f"{i:02d}.png", f"a photograph of something, number {i}"
        if 24 <= i < 30:
            photo = cv2.GaussianBlur(photo, (0, 0), (1.5, 2.5, 4.0)[i % 3])
        elif 30 <= i < 33:
            photo = np.repeat(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
        elif i >= 33:
            text = ("ab", "12 34 56 78 x", "x" * 2100, "IMG_2034.jpg")[i - 33]
        Image.fromarray(photo).save(path)
        path.with_suffix(".txt").write_text(text)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explore") / "photos"
    plant(folder)
    return folder


@pytest.fixture(scope="module")
def dataset(photos: Path) -> Path:
    set_config = config(photos, photos.parent, "set")
    build(set_config)
    return set_config.folder


def keys(folder: Path) -> set[str]:
    return {k for s in ("train", "eval") for k in Triplets(folder).table(s, ["key"])["key"].to_pylist()}


@pytest.mark.parametrize(
    "threshold",
    [
        {"max_blur": 0.7},
        {"max_blur": 0.35},
        {"min_chroma": -1.0, "max_blur": 2.0},
        {"min_caption": 2.0, "max_blur": 0.65},
        {"max_caption": 3000.0, "min_letters": 0.1},
        {"min_chroma": 8.0},
        {"max_map_share": 0.15},
        {"min_map_share": 0.0, "max_blur": 2.0},
        {"min_letters": 0.0, "max_map_share": 0.3},
        {"min_side": 200.0},
    ],
    ids=str,
)
@pytest.mark.slow
def test_it_says_what_a_build_with_other_thresholds_does(
    photos: Path, dataset: Path, tmp_path: Path, threshold: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    explore(ExploreConfig(dataset, threshold=threshold))
    takes, loses = map(int, re.search(r"takes (\d+) rejects, loses (\d+) samples", capsys.readouterr().out).groups())  # type: ignore[union-attr]
    other = config(photos, tmp_path, "other", **threshold)
    if threshold == {"min_side": 200.0}:
        assert (takes, loses) == (0, len(keys(dataset)))  # a build would end with an error
        return
    build(other)
    before, after = keys(dataset), keys(other.folder)
    assert (takes, loses) == (len(after - before), len(before - after))
    assert takes or loses


def test_rejects_carry_figures_that_are_those_of_a_build_that_takes_them(
    photos: Path, dataset: Path, tmp_path: Path
) -> None:
    everything = config(
        photos, tmp_path, "all", max_blur=9, min_chroma=-1, min_caption=0, max_caption=1e6, min_letters=0,
        min_map_share=0,
    )  # fmt: skip
    build(everything)
    rejects = pq.read_table(dataset / "rejects.parquet").to_pylist()
    taken = collect(Triplets(everything.folder))
    order = [k for s in ("train", "eval") for k in Triplets(everything.folder).table(s, ["key"])["key"].to_pylist()]
    compared = 0
    for row in rejects:
        if row["key"] not in order:
            assert (row["reason"], row["figures"]) == ("decode", None)
            continue
        at = order.index(row["key"])
        for name, value in json.loads(row["figures"]).items():
            if name not in ("also", "phash"):
                assert value == pytest.approx(taken.figures[name][at], rel=1e-5), (row["key"], name)
                compared += 1
    assert compared > 100


def test_the_page_stands_alone_and_shows_both_sides(dataset: Path) -> None:
    explore(ExploreConfig(dataset))
    page = (dataset / "explore.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    blur = page[page.index("<h2>blur ") :]
    blur = blur[: blur.index("</section>")]
    assert "(max_blur 0.55)" in blur
    sides = blur.split("Rejects nearest to it")
    assert sides[0].count("<img") == 8  # samples
    assert sides[1].count("<img") == len(re.findall("blur: ", sides[1])) > 0
    steps = re.search(r'data-steps="([^"]+)"', blur).group(1).strip(";").split(";")  # type: ignore[union-attr]
    loses = [int(step.split()[2]) for step in steps]
    assert loses == sorted(loses, reverse=True)  # a looser limit never loses more
    assert "1 of the rejects are out of reach" in page.replace("\n", " ")


def test_a_set_without_screens_is_explored_too(photos: Path, tmp_path: Path) -> None:
    plain = replace(config(photos, tmp_path, "plain"), screen="off")
    build(plain)
    explore(ExploreConfig(plain.folder, screen="default"))
    assert "letter_share" in (plain.folder / "explore.html").read_text()


def test_unknown_thresholds_are_one_line(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(CnlabError, match="unknown threshold max_blurr"):
        explore(ExploreConfig(dataset, threshold={"max_blurr": 1.0}))
    with pytest.raises(CnlabError, match="unknown screen"):
        explore(ExploreConfig(dataset, screen="lax"))
    with pytest.raises(CnlabError, match="not a finished dataset"):
        explore(ExploreConfig(tmp_path))


def test_a_killed_one_leaves_no_half_page(dataset: Path) -> None:
    page, command = (
        dataset / "explore.html",
        [sys.executable, "-m", "pipeline.cli", "explore", "--folder", str(dataset)],
    )
    page.unlink(missing_ok=True)
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (dataset / ".lock").exists() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not page.exists() or page.read_text().endswith("</html>")
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert page.read_text().endswith("</html>")
    assert not list(dataset.glob(".*.part"))
