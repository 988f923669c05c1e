"""Both layouts of a ControlNet, both ways round, against the released classes and diffusers' own reader."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel
from safetensors.torch import load_file, save_file

from pipeline.contract.errors import CnlabError
from trainer.exchange.layout import known_fields, layout_of
from trainer.exchange.layout_config import find_config
from trainer.exchange.single_file import METADATA, from_single_file, to_single_file
from trainer.nets.models import WEIGHTS

Tensors = dict[str, torch.Tensor]

SD15 = {"cross_attention_dim": 768, "attention_head_dim": 8}
SD21 = {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True}
SDXL = {
    "block_out_channels": [320, 640, 1280], "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
    "transformer_layers_per_block": [1, 2, 10], "attention_head_dim": [5, 10, 20], "cross_attention_dim": 2048,
    "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
#: Without any attention, as in the small SDXL ControlNets; 1280 is diffusers' default where nothing attends.
SDXL_SMALL = {
    **SDXL, "down_block_types": ["DownBlock2D"] * 3, "mid_block_type": "UNetMidBlock2D", "cross_attention_dim": 1280,
    "transformer_layers_per_block": 1, "use_linear_projection": False,
}  # fmt: skip
#: Tensors, parameters and the sha256 of the sorted lines ``control_model.NAME AxBxC`` of the released classes on the
#: meta device: cldm.ControlNet of lllyasviel/ControlNet built from models/cldm_v15.yaml and cldm_v21.yaml, and for SDXL
#: ComfyUI's class (as in lllyasviel/Fooocus, ldm_patched) with the configuration that its own detection made.
GOLDEN = {
    "sd15": (SD15, 340, 361_279_120, "78925ad91606187fa8ad1895ebee7ac0936f9144afd616c525f369b7d38c902d"),
    "sd21": (SD21, 340, 364_228_240, "6c56a8674bccc84ddb49b29e73a0488a40edc9d3e5dd6de462d2f69f305d6f52"),
    "sdxl": (SDXL, 844, 1_251_014_160, "d6399d14d687b8337ca1e26997229075d01c8e76d7d11f642a8bd9233354a4db"),
}
THIN = {"norm_num_groups": 8, "conditioning_embedding_out_channels": [4, 8, 12, 16]}
SMALL: dict[str, dict[str, Any]] = {
    "sd1": {**THIN, "block_out_channels": [16, 32, 32, 32], "cross_attention_dim": 24, "attention_head_dim": 8},
    "sd2": {
        **SD21, **THIN, "block_out_channels": [16, 32, 32, 32], "cross_attention_dim": 40,
        "attention_head_dim": [1, 2, 2, 2],
    },
    "sdxl": {
        **SDXL, **THIN, "block_out_channels": [16, 32, 32], "transformer_layers_per_block": [1, 2, 3],
        "cross_attention_dim": 40, "attention_head_dim": [1, 2, 2], "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 56,
    },
    "sdxl-small": {
        **SDXL_SMALL, **THIN, "block_out_channels": [16, 32, 32], "projection_class_embeddings_input_dim": 56,
    },
    "three-layers": {
        "block_out_channels": [8, 16], "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "layers_per_block": 3, "cross_attention_dim": 24, "conditioning_channels": 1, "norm_num_groups": 4,
        "conditioning_embedding_out_channels": [8, 16, 24],
    },
}  # fmt: skip


def tabletop_config() -> dict[str, Any]:
    unet = json.loads((WEIGHTS / "tabletop-sd" / "unet" / "config.json").read_text())
    return {**known_fields(unet), "conditioning_embedding_out_channels": [8, 16, 32, 64]}


def write_controlnet(folder: Path, config: dict[str, Any]) -> Path:
    """A ControlNet of random weights, zero convolutions too."""
    model = ControlNetModel(**config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    return folder


def weights(folder: Path) -> Tensors:
    found: Tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    return found


def equal(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())


@pytest.fixture(scope="module", params=[*SMALL, "tabletop"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = SMALL[request.param] if request.param in SMALL else tabletop_config()
    return write_controlnet(tmp_path_factory.mktemp("control") / request.param, config)


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_controlnet(tmp_path_factory.mktemp("control") / "sd1", SMALL["sd1"])


@pytest.mark.parametrize("prefix", [True, False])
def test_there_and_back_is_bit_equal(family: Path, tmp_path: Path, prefix: bool) -> None:
    file = to_single_file(family, tmp_path / "control.safetensors", prefix=prefix)
    head = "control_model." if prefix else ""
    assert {f"{head}zero_convs.0.0.weight", f"{head}input_hint_block.0.weight"} <= load_file(file).keys()
    back = from_single_file(file, tmp_path / "back")
    assert equal(weights(back), weights(family))
    assert json.loads((back / "config.json").read_text()) == json.loads((family / "config.json").read_text())
    loaded = ControlNetModel.from_pretrained(back)
    assert equal(loaded.state_dict(), weights(family))


def test_the_same_export_has_the_same_bytes(sd1: Path, tmp_path: Path) -> None:
    files = [to_single_file(sd1, tmp_path / f"{i}.safetensors").read_bytes() for i in range(8)]
    assert len(set(files)) == 1


@pytest.mark.parametrize("name", GOLDEN)
def test_names_and_shapes_are_those_of_the_released_classes(name: str) -> None:
    config, tensors, parameters, sha256 = GOLDEN[name]
    shapes = layout_of(config, name).single_shapes
    assert len(shapes) == tensors
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == parameters
    lines = sorted(f"control_model.{key} {'x'.join(map(str, shape))}\n" for key, shape in shapes.items())
    assert hashlib.sha256("".join(lines).encode()).hexdigest() == sha256


@pytest.mark.parametrize("name", ["sd1", "sd2", "tabletop"])
def test_diffusers_reads_the_file(name: str, tmp_path: Path) -> None:
    folder = write_controlnet(tmp_path / "control", SMALL.get(name) or tabletop_config())
    file = to_single_file(folder, tmp_path / "control.safetensors")
    read = ControlNetModel.from_single_file(str(file), config=str(folder), local_files_only=True)
    assert equal(read.state_dict(), weights(folder))


@pytest.mark.parametrize("config", [SD15, SD21, SDXL, SDXL_SMALL], ids=["sd15", "sd21", "sdxl", "sdxl-small"])
def test_config_of_published_architectures_is_read_off_the_shapes(config: dict[str, Any]) -> None:
    found = find_config(layout_of(config, "x").single_shapes, None, None, "x")
    with torch.device("meta"):
        expected = json.loads(ControlNetModel(**config).to_json_string())
    expected["_class_name"] = "ControlNetModel"
    differing = {k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k)}
    assert differing == set()


def test_what_shapes_do_not_tell_comes_from_a_like_model(tmp_path: Path) -> None:
    folder = write_controlnet(tmp_path / "control", tabletop_config())
    file = to_single_file(folder, tmp_path / "control.safetensors")
    save_file(load_file(file), file)  # as others write it: without the config
    with pytest.raises(CnlabError, match=r"number of attention heads .* --like FOLDER"):
        from_single_file(file, tmp_path / "none")
    for like in (WEIGHTS / "tabletop-sd", WEIGHTS / "tabletop-sd" / "unet", folder):
        back = from_single_file(file, tmp_path / f"like-{like.name}", like)
        assert equal(weights(back), weights(folder))
        ours, theirs = (ControlNetModel.load_config(f) for f in (back, folder))
        assert {k: v for k, v in ours.items() if k[0] != "_"} == {k: v for k, v in theirs.items() if k[0] != "_"}
    other = write_controlnet(tmp_path / "other", SMALL["sd1"])
    with pytest.raises(CnlabError, match=r"wrong shape: .* is .*, not "):
        from_single_file(file, tmp_path / "none", other)
    with pytest.raises(CnlabError, match=r"no config\.json"):
        from_single_file(file, tmp_path / "none", tmp_path)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_casting(sd1: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    back = from_single_file(to_single_file(sd1, tmp_path / "half.safetensors", dtype), tmp_path / "back")
    assert equal(weights(back), {name: value.to(dtype) for name, value in weights(sd1).items()})


def test_values_that_do_not_fit_are_refused(sd1: Path, tmp_path: Path) -> None:
    tensors, config = weights(sd1), (sd1 / "config.json").read_text()
    for number, said in ((1e6, r"float16; choose another --dtype: conv_in\.bias"), (float("nan"), r"finite: conv_in")):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "config.json").write_text(config)
        value = torch.full_like(tensors["conv_in.bias"], number)
        save_file({**tensors, "conv_in.bias": value}, folder / "diffusion_pytorch_model.safetensors")
        with pytest.raises(CnlabError, match=said):
            to_single_file(folder, tmp_path / "out.safetensors", torch.float16)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1000000.0", "nan"]


def drop(tensors: Tensors) -> Tensors:
    return {k: v for k, v in tensors.items() if ".zero_convs.3." not in k and ".transformer_blocks." not in k}


def other_shape(tensors: Tensors) -> Tensors:
    return {**tensors, "control_model.time_embed.0.bias": torch.zeros(3)}


REFUSED: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "missing": (drop, r"missing: input_blocks\.1\.1\.transformer_blocks\.0\S+, \S+, \S+ and \d+ more$"),
    "unknown": (lambda t: {**t, "control_model.difference": torch.ones(1)}, r"unknown: difference$"),
    "wrong shape": (other_shape, r"wrong shape: time_embed\.0\.bias is 3, not 64$"),
    "more than a ControlNet": (lambda t: {**t, "model_ema.decay": torch.ones(1)}, r"unknown: model_ema\.decay"),
    "foreign prefix": (lambda t: {f"module.{k}": v for k, v in t.items()}, r"missing: .* unknown: module\."),
    "diffusers": (lambda t: {"controlnet_cond_embedding.conv_in.weight": torch.ones(1)}, r"diffusers' layout already"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("embedded", [True, False])
def test_files_that_fit_no_controlnet_are_refused_in_one_line(
    sd1: Path, tmp_path: Path, name: str, embedded: bool
) -> None:
    change, said = REFUSED[name]
    file = to_single_file(sd1, tmp_path / "control.safetensors")
    metadata = {METADATA: (sd1 / "config.json").read_text()} if embedded else None
    save_file(change(load_file(file)), file, metadata)
    with pytest.raises(CnlabError, match=said) as caught:
        from_single_file(file, tmp_path / "out", None if embedded else sd1)
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["control.safetensors"]


def test_files_that_are_no_safetensors_are_refused(sd1: Path, tmp_path: Path) -> None:
    whole = to_single_file(sd1, tmp_path / "whole.safetensors").read_bytes()
    torch.save({"control_model.a": torch.ones(1)}, tmp_path / "zip.safetensors")
    (tmp_path / "old.ckpt").write_bytes(b"\x80\x02}q\x00.0000000")
    (tmp_path / "cut.safetensors").write_bytes(whole[:-100])
    (tmp_path / "head.safetensors").write_bytes(whole[:200])
    (tmp_path / "text.safetensors").write_text("version https://git-lfs")
    (tmp_path / "empty.safetensors").touch()
    said = {
        "zip": "is a pickle, which could run any code", "old": "is a pickle", "cut": "is damaged", "head": "is damaged",
        "text": "is not a safetensors file", "empty": "is not a safetensors file", "absent": "is not a file",
    }  # fmt: skip
    for name, expected in said.items():
        file = tmp_path / (f"{name}.ckpt" if name == "old" else f"{name}.safetensors")
        with pytest.raises(CnlabError, match=expected):
            from_single_file(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ("{}", "lacks down_block_types"),
        ({"layers_per_block": 10**9}, r"no sensible number of layers for \d+ tensors"),
        ({"transformer_layers_per_block": [10**9, 1, 1, 1]}, r"no sensible number of layers for \d+ tensors"),
        ({"layers_per_block": "2"}, "no sensible number of layers"),
        ({"block_out_channels": [8 * 10**12, 32, 32, 32]}, "wrong shape|describes no ControlNet"),
        ({"down_block_types": ["AttnDownBlock2D"] * 4}, "no place for the AttnDownBlock2D"),
        ({"_class_name": "ControlNetLite"}, "holds a ControlNetLite"),
    ],
)
def test_hostile_configs_inside_a_file(sd1: Path, tmp_path: Path, config: str | dict[str, Any], said: str) -> None:
    file = to_single_file(sd1, tmp_path / "control.safetensors")
    mine = json.loads((sd1 / "config.json").read_text())
    text = config if isinstance(config, str) else json.dumps({**mine, **config})
    save_file(load_file(file), file, {METADATA: text})
    with pytest.raises(CnlabError, match=said):
        from_single_file(file, tmp_path / "out")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"_class_name": "ControlNetLite"}, "holds a ControlNetLite; the single-file layout has a place for"),
        ({"encoder_hid_dim": 8, "encoder_hid_dim_type": "text_proj"}, r"no place for encoder_hid_proj\.bias"),
        ({"layers_per_block": 1}, "unknown: controlnet_down_blocks"),
    ],
)
def test_what_the_layout_has_no_place_for(sd1: Path, tmp_path: Path, config: dict[str, Any], said: str) -> None:
    folder = tmp_path / "control"
    folder.mkdir()
    mine = json.loads((sd1 / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**mine, **config}))
    save_file(weights(sd1), folder / "diffusion_pytorch_model.safetensors")
    with pytest.raises(CnlabError, match=said):
        to_single_file(folder, tmp_path / "out.safetensors")
