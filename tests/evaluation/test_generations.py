"""The folder of generated pictures: it grows, resumes, is shared, and refuses what is foreign."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evaluation.generations as generations
from evaluation.generations import MANIFEST, Order, file_of, find_generated, generate, open_generated, order_for
from evaluation.samples import EvalSet
from evaluation.sampling import make_recipe
from evaluation.subjects import Subject
from pipeline.contract.errors import CnlabError
from pipeline.contract.files import read_json, write_json
from pipeline.contract.pictures import write_picture
from trainer.run_folder import open_run


@pytest.fixture(scope="module")
def samples(dataset: Path) -> EvalSet:
    return EvalSet(dataset, ["canny"], 5)


def order_of(results: Path, run_folder: Path, samples: EvalSet, arm: str = "control", **changes: Any) -> Order:
    run = open_run(run_folder)
    nets = {"model": run.model, "model_label": "tiny-abc", "controls": [run.checkpoint], "weights": ["w"]}
    recipe = make_recipe("tabletop", {"steps": 2, "block": 2, **changes})
    return order_for(results, Subject(arm, "demo"), samples, nets, recipe, "cpu")  # type: ignore[arg-type]


def pictures(order: Order) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in order.folder.glob("*.png")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, run_folder: Path, samples: EvalSet) -> Order:
    order = order_of(tmp_path_factory.mktemp("whole"), run_folder, samples)
    assert generate(order, Subject("control", "demo")) == 5
    return order


def test_the_manifest_says_what_the_contract_says(whole: Order, samples: EvalSet) -> None:
    manifest = read_json(whole.folder / MANIFEST)
    assert manifest["subjects"] == ["demo"]
    assert manifest["recipe"] == "tabletop,steps=2,block=2"
    assert [entry["key"] for entry in manifest["images"]] == list(samples.keys)
    assert [entry["map_key"] for entry in manifest["images"]] == list(samples.keys)
    shown = open_generated(whole, Subject("control", "demo")).pictures(list(samples.keys), 0)
    assert shown.shape == (5, 64, 64, 3)


@pytest.mark.parametrize("stop", [1, 2])
def test_pictures_depend_neither_on_stops_nor_on_growth_nor_on_other_processes(
    tmp_path: Path, run_folder: Path, dataset: Path, whole: Order, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = EvalSet(dataset, ["canny"], 3)
    order = order_of(tmp_path, run_folder, few)
    real, calls = generations.write_picture, []

    def dying(path: Path, picture: np.ndarray) -> None:
        calls.append(path)
        if len(calls) > stop:
            raise KeyboardInterrupt
        real(path, picture)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(generations, "write_picture", dying)
        generate(order, Subject("control", "demo"))
    assert not (order.folder / MANIFEST).exists()
    assert generate(order, Subject("control", "demo")) == 3 - stop
    grown = replace(order, count=5)  # the same folder, more pictures
    assert generate(grown, Subject("control", "demo")) == 2
    assert pictures(grown) == pictures(whole)
    assert len(read_json(grown.folder / MANIFEST)["images"]) == 5
    assert generate(order, Subject("control", "demo")) == 0  # fewer are there too
    assert len(read_json(grown.folder / MANIFEST)["images"]) == 5


@pytest.mark.slow
def test_two_processes_make_the_same_bits(tmp_path: Path, run_folder: Path, samples: EvalSet, whole: Order) -> None:
    order = order_of(tmp_path, run_folder, samples)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        assert generate(order, Subject("control", "demo"), pool) == 5
    assert pictures(order) == pictures(whole)


KILLED = """
import os, sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
import evaluation.generations as g
import pickle
order = pickle.loads(bytes.fromhex(sys.argv[1]))
left = int(sys.argv[2])
real = g.write_picture
def write(path, picture):
    global left
    if left == 0:
        os.kill(os.getpid(), 9)
    left -= 1
    real(path, picture)
g.write_picture = write
from evaluation.subjects import Subject
g.generate(order, Subject("control", "demo"))
"""


@pytest.mark.proof
def test_killed_at_ten_points_and_resumed_the_pictures_are_the_same(
    tmp_path: Path, run_folder: Path, dataset: Path
) -> None:
    import pickle

    samples = EvalSet(dataset, ["canny"], 6)
    first = replace(order_of(tmp_path / "whole", run_folder, samples), groups=(0, 1))
    generate(first, Subject("control", "demo"))
    order = replace(order_of(tmp_path / "killed", run_folder, samples), groups=(0, 1))
    code = KILLED.format(tests=str(Path(__file__).parents[2]))
    for point in range(10):
        done = subprocess.run([sys.executable, "-c", code, pickle.dumps(order).hex(), "1"], capture_output=True)
        assert done.returncode == -9, (point, done.stderr[-500:])
        assert len(pictures(order)) == point + 1
    assert generate(order, Subject("control", "demo")) == 2
    assert pictures(order) == pictures(first)


def test_another_map_for_the_shuffled_arm_and_none_for_the_prior(
    tmp_path: Path, run_folder: Path, samples: EvalSet, whole: Order
) -> None:
    shuffled = order_of(tmp_path, run_folder, samples, "shuffled")
    generate(shuffled, Subject("shuffled", "demo"))
    entries = read_json(shuffled.folder / MANIFEST)["images"]
    assert all(entry["map_key"] not in (None, entry["key"]) for entry in entries)
    assert {entry["file"]: entry["seed"] for entry in entries} == {
        entry["file"]: entry["seed"] for entry in read_json(whole.folder / MANIFEST)["images"]
    }
    assert not set(pictures(shuffled).values()) & set(pictures(whole).values())
    prior = order_of(tmp_path, run_folder, samples, "prior")
    generate(prior, Subject("prior", "demo"))
    assert {entry["map_key"] for entry in read_json(prior.folder / MANIFEST)["images"]} == {None}


def test_the_priors_pictures_are_made_once_for_every_run_strength_and_condition(
    tmp_path: Path, run_folder: Path, samples: EvalSet
) -> None:
    order = order_of(tmp_path, run_folder, samples, "prior")
    assert generate(order, Subject("prior", "demo")) == 5
    again = order_of(tmp_path, run_folder, samples, "prior", strength=(0.5,), weighting="paper")
    assert generate(again, Subject("prior", "other")) == 0
    assert read_json(order.folder / MANIFEST)["subjects"] == ["demo/prior", "other/prior"]
    assert find_generated(tmp_path, "other/prior").folder == order.folder
    assert order_of(tmp_path, run_folder, samples, "prior", guidance=5.0).folder != order.folder


def test_prompt_modes_are_the_papers_four(run_folder: Path, samples: EvalSet, tmp_path: Path) -> None:
    own = np.arange(2)
    prompts = {
        mode: generations._prompts(order_of(tmp_path, run_folder, samples, prompt=mode), own)
        for mode in ("perfect", "insufficient", "conflicting", "none")
    }
    assert prompts["perfect"] == list(samples.texts[:2])
    assert prompts["none"] == ["", ""]
    assert prompts["insufficient"] == ["a high-quality, detailed, and professional image"] * 2
    assert not set(prompts["conflicting"]) & set(prompts["perfect"])


def test_a_foreign_folder_is_refused_and_says_what_differs(tmp_path: Path, run_folder: Path, samples: EvalSet) -> None:
    order = order_of(tmp_path, run_folder, samples)
    foreign = replace(order, identity={**order.identity, "model": "another"})
    order.folder.mkdir(parents=True)
    generations._claim(foreign)
    with pytest.raises(CnlabError, match=r"\(model differ\)"):
        generate(order, Subject("control", "demo"))


def test_missing_and_damaged_pictures_are_named(tmp_path: Path, run_folder: Path, dataset: Path) -> None:
    samples = EvalSet(dataset, ["canny"], 2)
    order = order_of(tmp_path, run_folder, samples)
    generate(order, Subject("control", "demo"))
    shown = open_generated(order, Subject("control", "demo"))
    with pytest.raises(CnlabError, match="in group 1"):
        shown.picture(samples.keys[0], 1)
    victim = order.folder / file_of(samples.keys[0], 0)
    victim.write_bytes(victim.read_bytes()[:100])
    with pytest.raises(CnlabError, match=victim.name):
        shown.picture(samples.keys[0], 0)
    write_picture(victim, np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(CnlabError, match="image 1 is 64x64, image 0 is 8x8"):
        shown.pictures(list(samples.keys), 0)
    manifest = read_json(order.folder / MANIFEST)
    manifest["images"][0]["file"] = "../x.png"
    write_json(order.folder / MANIFEST, manifest)
    with pytest.raises(CnlabError, match="no plain file name"):
        open_generated(order, Subject("control", "demo"))


def test_several_recipes_of_a_subject_are_told_apart(tmp_path: Path, run_folder: Path, dataset: Path) -> None:
    samples = EvalSet(dataset, ["canny"], 2)
    for guidance in (3.0, 5.0):
        generate(order_of(tmp_path, run_folder, samples, guidance=guidance), Subject("control", "demo"))
    with pytest.raises(CnlabError, match="several recipes"):
        find_generated(tmp_path, "demo")
    one = find_generated(tmp_path, "demo", "tabletop,steps=2,guidance=5,block=2")
    assert one.recipe == "tabletop,steps=2,guidance=5,block=2"
    with pytest.raises(CnlabError, match="no complete pictures of nobody"):
        find_generated(tmp_path, "nobody")
