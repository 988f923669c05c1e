"""Anybody's pictures find their samples or are refused in one line; names stand for one thing."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tyro
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image

from evaluation.cli import evaluate
from evaluation.config import EvalConfig, JudgeOptions, RecipeOptions
from evaluation.generations import file_of
from evaluation.samples import EvalSet
from evaluation.subjects import Subject
from evaluation.targets import Folder, Target, _by_name, resolve
from pipeline.contract.errors import CnlabError
from pipeline.contract.files import read_json, write_json
from pipeline.contract.pictures import write_picture


@pytest.fixture
def samples(dataset: Path) -> EvalSet:
    return EvalSet(dataset, ["canny"], 4)


def pictures(folder: Path, names: list[str]) -> Path:
    for index, name in enumerate(names):
        write_picture(folder / name, np.full((64, 64, 3), index, np.uint8))
    return folder


@pytest.mark.parametrize("name", [lambda key: key, lambda key: f"deep/er/{key}", lambda key: file_of(key, 0)[:-4]])
def test_a_picture_is_matched_by_key_or_hash(name, samples: EvalSet, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    folder = Folder(pictures(tmp_path / "p", [f"{name(key)}.png" for key in samples.keys[::-1]]), samples, None)
    assert {key: int(folder.read(samples, np.array([i]), 0).max()) for i, key in enumerate(samples.keys)} == {
        key: 3 - i for i, key in enumerate(samples.keys)
    }


class Keys:
    keys = ("a/1", "b/1", "c/2")


def test_keys_that_are_paths_match_by_their_path_and_never_by_chance() -> None:
    def match(*names: str) -> dict[str, str]:
        found = _by_name([Path("p") / name for name in names], Path("p"), Keys())  # type: ignore[arg-type]
        return {key: path.relative_to("p").as_posix() for key, path in found.items()}

    assert match("a/1.png", "b/1.png") == {"a/1": "a/1.png", "b/1": "b/1.png"}
    assert match("a-1.png", "b-1.png", "2.png") == {"a/1": "a-1.png", "b/1": "b-1.png", "c/2": "2.png"}
    with pytest.raises(CnlabError, match="may belong to a/1 or b/1; give --match"):
        match("1.png", "2.png")
    with pytest.raises(CnlabError, match="both match 'c/2'"):
        match("c/2.png", "2.png")


@pytest.mark.parametrize(
    "text",
    [
        "\ufefffile,key\r\nx.png,scene-2\r\ny.png,scene-0\r\nz.png,scene-5\r\n".encode(),
        b"key;filename\nscene-2;.\\X.PNG\nscene-0;y\nscene-5;./z.png\n",
        "file\tid\nx.png\tscene-2\ny.png\tscene-0\nz.png\tscene-5\n".encode("utf-16"),
    ],
)
def test_a_csv_from_a_spreadsheet(text: bytes, samples: EvalSet, tmp_path: Path) -> None:
    folder, match = pictures(tmp_path / "p", ["x.png", "y.png", "z.png"]), tmp_path / "match.csv"
    match.write_bytes(text)
    matched = Folder(folder, samples, match)
    assert matched.indices.tolist() == [0, 2]
    assert [int(matched.read(samples, np.array([i]), 0).max()) for i in (0, 2)] == [1, 0]
    assert "1 pictures there match no sample" in matched.notes(samples)[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"file;sample\nx.png;scene-0\n", "lacks the columns file and key; it has file, sample"),
        (b"file,key\nx.png\n", "line 2: 1 fields where the header has 2"),
        (b"file,key\nx.png,\n", "row 1: key is empty"),
        (b"file,key\nx.png,scene-0\ny.png,scene-0\n", "row 2: 'scene-0' has a picture already"),
        (b"file,key\nnone.png,scene-0\n", "row 1 names 'none.png', which is no picture in"),
        (b"file,key\n../x.png,scene-0\n", "row 1 names '../x.png', which is no picture in"),
        (b"file,key\nx.png,nobody\ny.png,no one\n", "0 of 2 .* see that .*match.csv names them"),
        (b"file,key\n\xe4.png,scene-0\n", "line 2: .* is not UTF-8; save the file as UTF-8"),
        (b"", "lacks the columns"),
    ],
)
def test_a_csv_that_cannot_be_used_gets_one_line(text: bytes, message: str, samples: EvalSet, tmp_path: Path) -> None:
    folder, match = pictures(tmp_path / "p", ["x.png", "y.png"]), tmp_path / "match.csv"
    match.write_bytes(text)
    with pytest.raises(CnlabError, match=message) as caught:
        Folder(folder, samples, match)
    assert "\n" not in str(caught.value)


def test_pictures_are_read_as_photographs_are_and_that_is_said(samples: EvalSet, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    upright = np.zeros((64, 64, 3), np.uint8)
    upright[:32] = 200
    turned = Image.fromarray(np.rot90(upright).copy())
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    turned.save(tmp_path / "p" / f"{samples.keys[0]}.PNG", exif=exif)
    Image.new("RGBA", (64, 64), (10, 20, 30, 0)).save(tmp_path / "p" / f"{samples.keys[1]}.png")
    Image.fromarray(upright).save(tmp_path / "p" / f"{samples.keys[2]}.webp", lossless=True)
    folder = Folder(tmp_path / "p", samples, None)
    read = folder.read(samples, folder.indices, 0)
    np.testing.assert_array_equal(read[0], upright)
    assert (read[1] == 255).all()
    np.testing.assert_array_equal(read[2], upright)
    notes = "\n".join(folder.notes(samples))
    assert "1 are JPEG or of its kind" in notes
    assert "2 are read as photographs are: on white where transparent" in notes


@pytest.mark.parametrize("data", [b"", b"\x89PNG nonsense", b"no picture"])
def test_a_picture_that_cannot_be_read_is_named(data: bytes, samples: EvalSet, tmp_path: Path) -> None:
    folder = Folder(pictures(tmp_path / "p", [f"{key}.png" for key in samples.keys]), samples, None)
    folder.files[samples.keys[1]].write_bytes(data)
    with pytest.raises(CnlabError, match=f"{samples.keys[1]}.png cannot be read .*; mend it or move it away") as caught:
        folder.read(samples, folder.indices, 0)
    assert "object at" not in str(caught.value)


def test_a_name_stands_for_one_net_or_folder(tmp_path: Path) -> None:
    def net(weights: str) -> Target:
        subjects = (Subject("control", "control:step-0000400"),)
        return Target(subjects, tmp_path, ("canny",), controls=("x",), weights=(weights,))

    net("w1").claim(tmp_path, write=False)
    net("w2").claim(tmp_path, write=True)
    net("w2").claim(tmp_path, write=True)
    with pytest.raises(CnlabError, match="another control:step-0000400; give this one a name of its own with --name"):
        net("w1").claim(tmp_path, write=True)
    out = Subject("folder", "folder:out")
    Target((out,), tmp_path, ("canny",), folder=tmp_path / "a" / "out").claim(tmp_path, write=True)
    with pytest.raises(CnlabError, match="another folder:out"):
        Target((out,), tmp_path, ("canny",), folder=tmp_path / "b" / "out").claim(tmp_path, write=False)
    for name in ("a b", "control:x", "../x"):
        with pytest.raises(CnlabError, match="--name"):
            tyro.cli(EvalConfig, args=["--subject", "prior", "--model", "tabletop", "--name", name])
    with pytest.raises(CnlabError, match="a run has its own name"):
        tyro.cli(EvalConfig, args=["--run", "runs/x", "--name", "y"])


def test_a_run_is_not_judged_in_silence_on_other_weights_than_it_was_trained_on(
    run_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(run_folder, tmp_path / "run"))
    model = Path(shutil.copytree(model_folder, tmp_path / "model"))
    header = read_json(run / "config.json")
    write_json(run / "config.json", {**header, "model": {**header["model"], "path": str(model)}})
    assert resolve(EvalConfig(run=run)).model == str(model)  # the same weights at another place
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(
        CnlabError, match=rf"run run was trained on {model} .* give --model FOLDER .* or --model {model}"
    ):
        resolve(EvalConfig(run=run))
    assert resolve(EvalConfig(run=run, model=str(model))).model == str(model)
    write_json(run / "config.json", {**header, "model": {**header["model"], "sha256": "0" * 64}})
    with pytest.raises(CnlabError, match="run run was trained on"):  # whichever of several nets it is
        resolve(EvalConfig(control=(str(run_folder), str(run)), condition=("canny", "canny")))


def test_a_net_that_does_not_fit_its_model_ends_in_one_line(
    run_folder: Path, model_folder: Path, clip_folder: Path, tmp_path: Path
) -> None:
    wide = Path(shutil.copytree(model_folder, tmp_path / "wide"))
    for part, changes in (("unet", {"in_channels": 8, "out_channels": 8}), ("vae", {"latent_channels": 8})):
        kind = UNet2DConditionModel if part == "unet" else AutoencoderKL
        kind.from_config({**kind.load_config(wide, subfolder=part), **changes}).save_pretrained(wide / part)
    config = EvalConfig(
        run=run_folder, model=str(wide), results=tmp_path / "results", images=4, arms=("control",),
        recipe=RecipeOptions(steps=2, block=4), judges=JudgeOptions(clip=str(clip_folder)), device="cpu",
    )  # fmt: skip
    with pytest.raises(
        CnlabError, match=r"does not fit the model .*: in_channels is 4 in the ControlNet, 8 in the UNet"
    ):
        evaluate(config)
