from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import pipeline.variants.select as selecting
from pipeline.config import SelectConfig
from pipeline.contract.dataset import Triplets
from pipeline.contract.errors import CnlabError
from pipeline.contract.identity import sha256_file
from pipeline.contract.pictures import decode_image
from pipeline.screen.images import figures
from pipeline.variants.orders import by_clusters
from pipeline.variants.select import select


def keys_of(folder: Path) -> list[str]:
    return [
        key
        for f in sorted(folder.glob("train-*.parquet"))
        for key in pq.read_table(f, columns=["key"])["key"].to_pylist()
    ]


def test_a_figure_orders_the_pictures_by_what_is_measured_on_them(renders: Path) -> None:
    select(SelectConfig(renders, "sharpness:desc", name="sharpest"))
    folder = renders.parent / "sharpest"
    rows = [r for f in sorted(folder.glob("train-*.parquet")) for r in pq.read_table(f).to_pylist()]
    measured = [figures(decode_image(row["image"]["bytes"]))["sharpness"] for row in rows]
    assert measured == sorted(measured, reverse=True)
    assert [row["rank"] for row in rows] == list(range(120))
    assert sorted(row["key"] for row in rows) == sorted(keys_of(renders))
    before = {r["key"]: r for f in renders.glob("train-*.parquet") for r in pq.read_table(f).to_pylist()}
    assert all({**row, "rank": 0} == {**before[row["key"]], "rank": 0} for row in rows)  # whole rows move


@pytest.mark.parametrize("selection", ["rank", "clusters", "contrast:asc"])
def test_selections_of_different_size_are_nested_and_share_the_evaluation_split(selection: str, renders: Path) -> None:
    name = selection.replace(":", "-")
    large = select(SelectConfig(renders, selection, name=f"{name}-all"))
    small = select(SelectConfig(renders, selection, size="30", name=f"{name}-30"))
    assert keys_of(renders.parent / f"{name}-30") == keys_of(renders.parent / f"{name}-all")[:30]
    assert small["selection"] == large["selection"] == selection
    assert small["eval_fingerprint"] == large["eval_fingerprint"]
    assert small["fingerprint"] != large["fingerprint"]
    for file in renders.glob("eval-*.parquet"):
        assert (renders.parent / f"{name}-30" / file.name).read_bytes() == file.read_bytes()
    if selection == "rank":
        assert keys_of(renders.parent / "rank-all") == keys_of(renders)


def test_clusters_cover_what_ranks_leave_out() -> None:
    """Nine tenths of the samples lie in one heap; the selection takes as many of it as of each other."""
    rng = np.random.default_rng(0)
    centres = 10 * rng.normal(size=(10, 4))
    label = np.where(rng.random(800) < 0.9, 0, rng.integers(1, 10, 800))
    features = (centres[label] + 0.1 * rng.normal(size=(800, 4))).astype(np.float32)
    order = by_clusters(features)
    assert sorted(order) == list(range(800))
    assert len(set(label[order[:100]])) == 10
    assert len(set(label[order[:100]])) > len(set(label[:20]))
    assert np.array_equal(order, by_clusters(features))


def test_rows_are_gathered_in_several_passes_alike(renders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    select(SelectConfig(renders, "brightness:asc", name="one-pass"))
    monkeypatch.setattr(selecting, "MEMORY", 1)
    monkeypatch.setattr(selecting, "ROWS", 32)
    select(SelectConfig(renders, "brightness:asc", name="passes"))
    assert len(list((renders.parent / "passes").glob("train-*.parquet"))) == 4
    assert keys_of(renders.parent / "passes") == keys_of(renders.parent / "one-pass")
    Triplets(renders.parent / "passes").verify()


def test_a_killed_selection_goes_on_to_the_same_bytes(renders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selecting, "MEMORY", 1)
    monkeypatch.setattr(selecting, "ROWS", 16)
    select(SelectConfig(renders, "clusters", name="whole-selection"))
    folder = renders.parent / "killed-selection"
    if (pid := os.fork()) == 0:
        select(SelectConfig(renders, "clusters", name="killed-selection"))
        os._exit(0)
    until = time.monotonic() + 60
    while len(list(folder.glob("train-*.parquet"))) < 2 and time.monotonic() < until:
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert not (folder / "dataset.json").exists()
    select(SelectConfig(renders, "clusters", name="killed-selection"))
    for file in (renders.parent / "whole-selection").glob("*.parquet"):
        assert sha256_file(folder / file.name) == sha256_file(file)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"select": "beauty:desc"}, "brightness, contrast"),
        ({"select": "sharpness"}, "FIGURE:desc"),
        ({"select": "clip_match:desc"}, "have no clip_match"),
        ({"select": "rank", "size": "5k"}, "120 training samples"),
        ({"select": "rank", "clip": "x"}, "clusters alone"),
        ({"select": "rank", "name": "../up"}, "name of a folder"),
    ],
)
def test_wrong_selections_are_one_line(options: dict[str, str], message: str, renders: Path) -> None:
    with pytest.raises(CnlabError, match=message) as error:
        select(SelectConfig(renders, **{"name": "wrong", **options}))
    assert "\n" not in str(error.value)
