"""A ControlNet to start from is compared with the prior before anything is created."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from pipeline.contract.errors import CnlabError
from pipeline.contract.files import read_json, write_json
from trainer.config import DataOptions, TrainConfig
from trainer.data.items import flip_safe
from trainer.nets.control import build_control
from trainer.nets.fit import check_init, check_pair
from trainer.nets.models import load_prior
from trainer.run import resolve, run_training


@pytest.mark.parametrize(
    ("field", "value"), [("cross_attention_dim", 24), ("block_out_channels", (16, 16, 32, 32)), ("in_channels", 9)]
)
def test_what_does_not_fit_is_named(
    field: str, value: object, model_folder: Path, dataset: Path, tmp_path: Path
) -> None:
    config = dict(UNet2DConditionModel.load_config(model_folder, subfolder="unet"))
    other = UNet2DConditionModel.from_config({**config, field: value})
    ControlNetModel.from_unet(other, conditioning_embedding_out_channels=(8, 8, 8, 8)).save_pretrained(tmp_path / "net")
    run = TrainConfig(dataset=dataset, model=str(model_folder), out=tmp_path / "runs", init=str(tmp_path / "net"))
    with pytest.raises(CnlabError, match=field):
        run_training(run)
    assert not (tmp_path / "runs").exists()


def test_a_copy_of_the_prior_fits(model_folder: Path, tmp_path: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(model_folder, subfolder="unet")
    ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8, 8, 8)).save_pretrained(tmp_path)
    check_init(str(tmp_path), str(model_folder))


def test_a_file_is_brought_into_a_folder_first(model_folder: Path, tmp_path: Path) -> None:
    for name in ("net.safetensors", "config.json"):
        (tmp_path / name).write_text("{}")
        with pytest.raises(CnlabError, match=r"is a file; .*cnlab-train import --file .* --out FOLDER"):
            check_init(str(tmp_path / name), str(model_folder))


def test_nine_channels_end_in_one_line(model_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "inpainting"))
    config = dict(UNet2DConditionModel.load_config(folder, subfolder="unet"))
    UNet2DConditionModel.from_config({**config, "in_channels": 9}).save_pretrained(folder / "unet")
    with pytest.raises(CnlabError, match="takes 9 channels"):
        load_prior(str(folder), torch.device("cpu"))


@pytest.mark.parametrize("variant", ["controlnet", "vae", "lora", "lite", "mlp"])
def test_a_net_of_any_variant_is_compared_with_the_model_it_is_to_steer(variant: str, model_folder: Path) -> None:
    prior = load_prior(str(model_folder), torch.device("cpu"))
    unet = prior.unet.config
    control = build_control(prior.unet, (8, 8, 8, 8), 0, variant=variant, vae=prior.vae)
    check_pair("net", control, "model", unet)
    for field, value in (("in_channels", 8), ("block_out_channels", (16, 16, 32, 32))):
        with pytest.raises(CnlabError, match=f"the ControlNet net does not fit the model 'model': {field} is"):
            check_pair("net", control, "model", {**unet, field: value})


@pytest.mark.parametrize("name", ["dwpose", "normals", "densepose", "openpose"])
def test_maps_of_unknown_name_are_not_mirrored(name: str) -> None:
    assert not flip_safe(name)
    assert flip_safe("canny")


def test_a_run_and_a_path_to_nothing_are_told_from_controlnets(model_folder: Path, tmp_path: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(model_folder, subfolder="unet")
    saved = tmp_path / "run" / "checkpoints" / "step-0000004"
    ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8, 8, 8)).save_pretrained(saved)
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(CnlabError, match=f"is a run; start from one of its checkpoints, such as --init {saved}"):
        check_init(str(tmp_path / "run"), str(model_folder))
    with pytest.raises(CnlabError, match=f"no such folder, and it is no hub name; there are {saved}"):
        check_init(str(saved.with_name("step-0000002")), str(model_folder))
    with pytest.raises(CnlabError, match="UNet2DConditionModel; start from the folder of a ControlNet"):
        check_init(f"{model_folder}/unet", str(model_folder))


@pytest.mark.parametrize(
    ("made", "variant", "said"),
    [
        ("vae", "controlnet", "--variant vae or lora can start, not controlnet"),
        ("vae", "vae", ""),
        ("vae", "lora", ""),
        ("controlnet", "vae", ""),
        ("lite", "controlnet", "holds ControlNetLite"),
    ],
)
def test_a_run_is_named_by_what_it_trains(
    made: str, variant: str, said: str, model_folder: Path, tmp_path: Path
) -> None:
    prior = load_prior(str(model_folder), torch.device("cpu"))
    build_control(prior.unet, (8, 8, 8, 8), 0, variant=made, vae=prior.vae).save_pretrained(tmp_path)
    if said:
        with pytest.raises(CnlabError, match=said):
            check_init(str(tmp_path), str(model_folder), variant=variant)
        return
    check_init(str(tmp_path), str(model_folder), variant=variant)
    start = build_control(prior.unet, (8, 8, 8, 8), 0, variant=variant, init=str(tmp_path), vae=prior.vae)
    assert any(parameter.requires_grad for parameter in start.parameters())


def test_given_maps_are_mirrored_only_where_that_is_said_to_be_right(
    model_folder: Path, dataset: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(dataset, tmp_path / "data", ignore=shutil.ignore_patterns(".cache")))
    header = read_json(data / "dataset.json")
    write_json(data / "dataset.json", {**header, "conditions": ["scratches"]})
    config = TrainConfig(dataset=data, model=str(model_folder), flip=True)
    with pytest.raises(CnlabError, match="leave --flip out, or add --flip-safe scratches"):
        resolve(config)
    assert resolve(replace(config, data=DataOptions(flip_safe=("scratches",))))[0].flip
