"""Base models as people have them: one file, another autoencoder, a variant of the weights, a hub name at a commit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from single_file import vae_tensors, write_single_file
from torch import nn

from evaluation.config import EvalConfig
from evaluation.targets import resolve
from pipeline.contract.errors import CnlabError
from trainer.config import HintOptions, TrainConfig, WatchOptions
from trainer.exchange.card import card_text, read_facts
from trainer.nets.base import BaseOptions, is_hub, model_folder, model_identity
from trainer.nets.models import Prior, load_prior
from trainer.run import run_training
from trainer.run_folder import open_run, read_config

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def other_vae(model_folder: Path) -> AutoencoderKL:
    """The model's autoencoder with other weights."""
    vae = AutoencoderKL.from_pretrained(model_folder, subfolder="vae")
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return vae


def parts(prior: Prior) -> dict[str, nn.Module]:
    texts = {f"text {i}": encoder for i, encoder in enumerate(prior.text_encoders)}
    return {"unet": prior.unet, "vae": prior.vae, **texts}


def same(one: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


@pytest.fixture
def v2_folder(model_folder: Path, tmp_path: Path) -> Path:
    """As SD 2.x: velocity is predicted, projections of the attention are linear, each level has its number of heads."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    pipe = StableDiffusionPipeline.from_pretrained(model_folder, safety_checker=None)
    torch.manual_seed(2)
    config = {**pipe.unet.config, "use_linear_projection": True, "attention_head_dim": [1, 2, 4, 4]}
    pipe.unet = UNet2DConditionModel.from_config(config)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type="v_prediction")
    pipe.save_pretrained(tmp_path / "v2")
    return tmp_path / "v2"


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [("model_folder", "safetensors"), ("model_folder", "ckpt"), ("v2_folder", "safetensors"),
     ("xl_folder", "safetensors")],
)  # fmt: skip
@pytest.mark.slow
def test_a_model_in_one_file_is_the_model_in_a_folder(
    kind: str, suffix: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(kind)
    file = write_single_file(folder, tmp_path / f"model.{suffix}")
    options = BaseOptions(single_file_config=str(folder))
    priors = load_prior(str(folder), CPU), load_prior(str(file), CPU, options)
    theirs, own = map(parts, priors)
    assert priors[0].scheduler.config.prediction_type == priors[1].scheduler.config.prediction_type
    assert ("v_prediction" in priors[1].scheduler.config.values()) == (kind == "v2_folder")
    assert [name for name in theirs if not same(theirs[name], own[name])] == []
    written = Path(model_folder(str(file), options)) / "model_index.json"
    before = written.stat().st_mtime_ns
    assert Path(model_folder(str(file), options)) == written.parent
    assert written.stat().st_mtime_ns == before  # once


def test_a_file_of_sd_2_does_not_say_what_it_predicts(tmp_path: Path) -> None:
    from trainer.nets.base import model_folder as folder_of

    key = "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight"
    save_file({key: torch.zeros(320, 1024)}, tmp_path / "v2-1.safetensors")
    with pytest.raises(
        CnlabError, match=r"velocity \(768 px\).*--single-file-config stabilityai/.*-2-1, .*-base"
    ) as caught:
        folder_of(str(tmp_path / "v2-1.safetensors"))
    assert "\n" not in str(caught.value)


def test_models_of_files_that_changed_or_went_are_removed_from_the_cache(
    model_folder: Path, other_vae: AutoencoderKL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.nets.base import model_folder as folder_of

    def entries() -> set[str]:
        return {place.name for place in (tmp_path / "cache" / "controlnet-lab" / "models").iterdir() if place.is_dir()}

    file, twin = (write_single_file(model_folder, tmp_path / f"{name}.safetensors") for name in ("own", "twin"))
    changed = load_file(twin)
    name = next(iter(changed))
    save_file({**changed, name: changed[name] + 1}, twin)
    other_vae.save_pretrained(tmp_path / "vae")
    config = BaseOptions(single_file_config=str(model_folder))
    first = Path(folder_of(str(file), config))
    composed = Path(folder_of(str(file), replace(config, vae=str(tmp_path / "vae"))))
    other = Path(folder_of(str(twin), config))
    older = first.with_name("0123456789abcdef")  # of a version that recorded nothing
    older.mkdir()
    monkeypatch.chdir(tmp_path)
    assert Path(folder_of("own.safetensors", config)) == first  # the same file
    assert entries() == {first.name, composed.name, other.name}
    tensors = load_file(file)
    save_file({**tensors, name: tensors[name] + 2}, file)
    second = Path(folder_of(str(file), config))
    assert entries() == {second.name, composed.name, other.name}
    again = Path(folder_of(str(file), replace(config, vae=str(tmp_path / "vae"))))
    assert entries() == {second.name, again.name, other.name}
    twin.unlink()
    assert same(load_prior(str(file), CPU, config).vae, load_prior(str(model_folder), CPU).vae)
    assert entries() == {second.name, again.name}


def test_a_file_that_holds_no_model_ends_in_one_line(model_folder: Path, tmp_path: Path) -> None:
    from trainer.nets.base import model_folder as folder_of

    save_file({"nothing": torch.zeros(1)}, tmp_path / "lora.safetensors")
    (tmp_path / "notes.txt").write_text("x")
    for name, words in (("lora.safetensors", "lora.safetensors"), ("notes.txt", "neither a folder nor"),
                        ("absent.safetensors", "there is no such file")):  # fmt: skip
        with pytest.raises(CnlabError, match=words) as caught:
            folder_of(str(tmp_path / name), BaseOptions(single_file_config=str(model_folder)))
        assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").rglob("model_index.json"))


@pytest.mark.parametrize("form", ["folder", "file"])
def test_another_autoencoder_is_another_model(
    form: str, model_folder: Path, other_vae: AutoencoderKL, tmp_path: Path
) -> None:
    place = tmp_path / ("vae" if form == "folder" else "vae.safetensors")
    if form == "folder":
        other_vae.save_pretrained(place)
    else:
        save_file({n: v.detach().contiguous() for n, v in vae_tensors(other_vae, "").items()}, place)
    options = BaseOptions(vae=str(place))
    own, plain = load_prior(str(model_folder), CPU, options), load_prior(str(model_folder), CPU)
    assert same(own.vae, other_vae)
    assert same(own.unet, plain.unet)
    assert not same(own.vae, plain.vae)
    assert model_identity(str(model_folder), options) != model_identity(str(model_folder))


def test_a_variant_of_the_weights_is_read_by_its_name(model_folder: Path, tmp_path: Path) -> None:
    from trainer.nets.base import model_folder as folder_of

    folder = Path(shutil.copytree(model_folder, tmp_path / "half"))
    for name in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"):
        save_file(
            {k: v.half() if v.is_floating_point() else v for k, v in load_file(folder / f"{name}.safetensors").items()},
            folder / f"{name}.fp16.safetensors",
            {"format": "pt"},
        )
    half = load_prior(str(folder), CPU, BaseOptions(weights_variant="fp16"))
    full = load_prior(str(folder), CPU)
    for name, own in parts(half).items():
        for key, value in parts(full)[name].state_dict().items():
            assert torch.equal(own.state_dict()[key], value.half().float() if value.is_floating_point() else value)
    with pytest.raises(CnlabError, match=r"no weights of the variant 'bf16'.*it has diffusion_pytorch_model"):
        folder_of(str(folder), BaseOptions(weights_variant="bf16"))


@pytest.fixture
def hub(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """The hub's cache, offline, with two commits of one model: their names."""
    import huggingface_hub.constants as constants

    root = tmp_path / "hub" / "models--own--tiny"
    commits = ("a" * 40, "b" * 40)
    for commit in commits:
        shutil.copytree(model_folder, root / "snapshots" / commit)
    weights = root / "snapshots" / commits[1] / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({k: v + 0.01 for k, v in load_file(weights).items()}, weights, {"format": "pt"})
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commits[0])
    (root / "refs" / "next").write_text(commits[1])
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return commits


def test_a_hub_model_is_its_commit(hub: tuple[str, str]) -> None:
    assert is_hub("own/tiny")
    assert model_identity("own/tiny") == f"hub:own/tiny@{hub[0]}"
    assert model_identity("own/tiny", BaseOptions(revision="next")) == f"hub:own/tiny@{hub[1]}"
    first, second = load_prior("own/tiny", CPU), load_prior("own/tiny", CPU, BaseOptions(revision="next"))
    assert same(first.unet, second.unet)
    assert not same(first.vae, second.vae)
    with pytest.raises(CnlabError, match="own/absent"):
        load_prior("own/absent", CPU)


@pytest.mark.slow
def test_runs_train_on_it_name_it_and_are_evaluated_on_it(
    hub: tuple[str, str], dataset: Path, tmp_path: Path, other_vae: AutoencoderKL
) -> None:
    data = Path(shutil.copytree(dataset, tmp_path / "data", ignore=shutil.ignore_patterns(".cache")))
    other_vae.save_pretrained(tmp_path / "vae")
    config = TrainConfig(
        dataset=data, model="own/tiny", out=tmp_path / "runs", steps=1, batch=2, device="cpu",
        hint=HintOptions((8, 8, 8, 8)), watch=WatchOptions(loss_samples=2, fidelity_samples=0),
    )  # fmt: skip
    runs = [
        run_training(replace(config, base=base))
        for base in (BaseOptions(), BaseOptions(revision="next"), BaseOptions(vae=str(tmp_path / "vae")))
    ]
    assert len(set(runs)) == 3
    latents = [np.fromfile(file, np.float16) for file in (data / ".cache").glob("latents-*.f16") if file.stat().st_size]
    assert len(latents) == 6  # train and eval of each
    assert read_config(runs[1])["model"]["revision"] == hub[1]
    card = card_text(read_facts(runs[1], 1), [], {}, "openrail")
    assert hub[1] in card
    assert "autoencoder" in card_text(read_facts(runs[2], 1), [], {}, "openrail")
    targets = [resolve(EvalConfig(run=run)) for run in runs]
    assert len({target.model_label for target in targets}) == 3
    assert targets[1].model_label == f"own/tiny@{hub[1][:12]}"
    assert same(load_prior(targets[2].model, CPU).vae, other_vae)
    assert open_run(runs[1]).base == BaseOptions(revision=hub[1])
    index = json.loads((Path(targets[2].model) / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
