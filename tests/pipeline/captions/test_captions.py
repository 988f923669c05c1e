from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

from pipeline.captions import get_captioner
from pipeline.contract.errors import CnlabError

PICTURE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def blip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blip")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[DEC]", "[ENC]", "a", "red", "cube", "on", "wood"]
    (folder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(3)
    config = BlipConfig(
        text_config={
            "vocab_size": len(words), "hidden_size": 16, "encoder_hidden_size": 16, "intermediate_size": 32,
            "num_hidden_layers": 1, "num_attention_heads": 2, "projection_dim": 8, "bos_token_id": 4,
            "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0,
        },
        vision_config={
            "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 32, "patch_size": 16, "projection_dim": 8,
        },
        projection_dim=8,
    )  # fmt: skip
    BlipForConditionalGeneration(config).save_pretrained(folder)
    tokenizer = BertTokenizer(str(folder / "vocab.txt"))
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip_and_phrases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import json

    import open_clip
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("interrogator")
    cfg: dict[str, Any] = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
    }
    torch.manual_seed(0)
    save_file(dict(open_clip.CLIP(**cfg).state_dict()), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg, "preprocess_cfg": {}}))
    (folder / "data").mkdir()
    for name in ("artists", "flavors", "mediums", "movements", "negative"):
        (folder / "data" / f"{name}.txt").write_text("\n".join(f"{name} {i}" for i in range(6)))
    return folder


def test_given_captions_are_looked_up() -> None:
    for name in ("sidecar", "metadata", "column", "filename", "template"):
        captioner = get_captioner(name)
        captioner.prepare()
        assert captioner.name == name
        assert captioner.caption(PICTURE, {name: "words", "key": "k"}) == "words"
        assert captioner.caption(PICTURE, {"key": "k"}) is None


def test_template_fills_fields_and_is_silent_where_one_is_missing() -> None:
    captioner = get_captioner("template:a photo of {folder}, {{{sidecar}}}")
    assert captioner.name == "template:a photo of {folder}, {{{sidecar}}}"
    assert (
        captioner.caption(PICTURE, {"folder": "cats", "sidecar": "on a {key} mat"})
        == "a photo of cats, {on a {key} mat}"
    )
    assert captioner.caption(PICTURE, {"folder": "cats", "sidecar": " "}) is None
    assert captioner.caption(PICTURE, {"folder": "cats"}) is None


@pytest.mark.parametrize(
    "text",
    ["{nothing}", "{key.__class__}", "{key[0]}", "{}", "{0}", "{key!r}", "{key:>99999999}", "{", "a } b", "", "  "],
)
def test_bad_templates_are_one_line(text: str) -> None:
    with pytest.raises(CnlabError, match=r"template") as error:
        get_captioner(f"template:{text}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["", "blipp", "interrogator:slow", "sidecar:x"])
def test_unknown_names_are_one_line(name: str) -> None:
    with pytest.raises(CnlabError, match="unknown"):
        get_captioner(name)


def test_blip_describes_a_picture_in_its_own_words(blip_folder: Path) -> None:
    captioner = get_captioner("blip", {"blip": str(blip_folder)})
    captioner.prepare()
    said = captioner.caption(PICTURE, {})
    assert said
    assert set(said.split()) <= {"a", "red", "cube", "on", "wood", "[UNK]", "[DEC]", "[ENC]"}
    assert captioner.caption(PICTURE, {}) == said  # no sampling


@pytest.mark.parametrize("mode", ["", ":classic", ":best"])
def test_interrogator_adds_phrases_to_the_caption(
    mode: str, blip_folder: Path, clip_and_phrases: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    weights = {"blip": str(blip_folder), "interrogator": str(clip_and_phrases)}
    captioner = get_captioner(f"interrogator{mode}", weights)
    captioner.prepare()
    said = captioner.caption(PICTURE, {})
    plain = get_captioner("blip", weights).caption(PICTURE, {})
    assert said is not None
    assert said.startswith(plain)
    if mode != ":best":  # that one may find that nothing fits better than the caption alone
        assert ", " in said
        assert any(f"{name} " in said for name in ("artists", "flavors", "mediums", "movements", "trending", "contest"))
    assert captioner.caption(PICTURE, {}) == said
    assert captioner.name == f"interrogator{mode}"


@pytest.mark.parametrize("name", ["blip", "interrogator"])
def test_missing_weights_are_one_line(name: str, tmp_path: Path) -> None:
    captioner = get_captioner(name, {name: str(tmp_path), "blip": str(tmp_path)})
    with pytest.raises(CnlabError, match=r"cannot be loaded from .*--weights") as error:
        captioner.prepare()
    assert "\n" not in str(error.value)


def test_interrogator_never_goes_on_with_random_weights(
    blip_folder: Path, clip_and_phrases: Path, tmp_path: Path
) -> None:
    (tmp_path / "open_clip_config.json").write_bytes((clip_and_phrases / "open_clip_config.json").read_bytes())
    captioner = get_captioner("interrogator", {"blip": str(blip_folder), "interrogator": str(tmp_path)})
    with pytest.raises(CnlabError, match="none of open_clip_model"):
        captioner.prepare()
