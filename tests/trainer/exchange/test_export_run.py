"""A run's checkpoint as a clean folder or file; what already lies there is safe; the model card."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import ControlNetModel
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from PIL import Image
from safetensors.torch import load_file

from pipeline.contract.errors import CnlabError
from pipeline.contract.files import read_json, write_json
from trainer.exchange import single_file
from trainer.exchange.card import Facts, card_text, read_rows
from trainer.exchange.export import ExportConfig, ImportConfig, export, import_file

STEP = "checkpoints/step-0000010"
CONTROL = {"_class_name": "ControlNetModel"}
ROW = {
    "run": "demo", "dataset": "tiny", "condition": "canny", "subset_size": 8, "train_seed": 0, "gen_seed": 0,
    "step": 10, "split": "eval", "metric": "canny_f1_2px", "metric_version": "1", "value": 0.611, "ci_low": 0.588,
    "ci_high": 0.631, "n": 128, "higher_is_better": True, "fingerprint": "f", "commit": "c",
}  # fmt: skip


@pytest.fixture
def run(run_folder: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, with the optimizer and state beside the weights and a sample grid."""
    copy = tmp_path / "demo"
    shutil.copytree(run_folder, copy)
    write_json(copy / STEP / "state.json", {"step": 10})
    (copy / STEP / "optimizer.safetensors").write_bytes(b"not to be exported")
    (copy / "samples").mkdir()
    Image.new("RGB", (4, 4)).save(copy / "samples" / "step-0000010.png")
    return copy


@pytest.fixture
def config(run: Path, tmp_path: Path) -> ExportConfig:
    return ExportConfig(run=run, out=tmp_path / "out", results=tmp_path / "results.parquet")


def table(path: Path, *rows: dict[str, Any]) -> None:
    pd.DataFrame([{**ROW, **row} for row in rows]).convert_dtypes().to_parquet(path)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(folder / "diffusion_pytorch_model.safetensors")
    return found


def test_folder_holds_the_weights_bit_equal_and_nothing_else(config: ExportConfig) -> None:
    out = export(config)
    names = ["README.md", "config.json", "diffusion_pytorch_model.safetensors", "samples.png"]
    assert sorted(p.name for p in out.iterdir()) == names
    theirs = tensors(config.run / STEP)
    assert all(torch.equal(value, theirs[name]) for name, value in tensors(out).items())
    loaded = ControlNetModel.from_pretrained(out)
    assert loaded.state_dict().keys() == theirs.keys()
    assert out.stat().st_mode & 0o444 == 0o444
    assert (out / names[2]).stat().st_mode & 0o077 == (out / names[1]).stat().st_mode & 0o077
    half = export(replace(config, out=out.with_name("half"), dtype="float16"))
    assert all(torch.equal(value, theirs[name].half()) for name, value in tensors(half).items())


def test_a_run_that_ended_in_no_numbers_is_exported_up_to_its_last_sound_checkpoint(config: ExportConfig) -> None:
    (config.run / "summary.json").unlink()
    log = config.run / "log.jsonl"
    for sound, said in ((8, "step 8"), (10, "step 10")):
        lines = [{"step": step, "loss": 0.1 if step <= sound else None} for step in range(1, 15)]
        log.write_text("".join(json.dumps(line) + "\n" for line in lines))
        with pytest.raises(CnlabError, match=f"no numbers .the last number is of {said}"):
            export(config)
        assert not config.out.exists()
    lines[10]["loss"] = 0.1  # computed with the weights of step 10
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert (export(config) / "diffusion_pytorch_model.safetensors").is_file()


def test_a_decoder_that_was_trained_too_goes_along(config: ExportConfig, capsys: pytest.CaptureFixture[str]) -> None:
    (config.run / STEP / "unet").mkdir()
    (config.run / STEP / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"decoder")
    out = export(config)
    assert (out / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() == b"decoder"
    export(replace(config, out=out.with_name("one.safetensors"), layout="single"))
    assert "holds the ControlNet alone" in capsys.readouterr().out


def test_one_file_and_back(config: ExportConfig, tmp_path: Path) -> None:
    file = export(replace(config, layout="single", out=tmp_path / "control_tiny_canny.safetensors"))
    back = import_file(ImportConfig(file, tmp_path / "back"))
    theirs = tensors(config.run / STEP)
    assert all(torch.equal(value, theirs[name]) for name, value in tensors(back).items())
    again = export(ExportConfig(run=back, out=tmp_path / "again"))
    assert "How it was trained is not recorded" in (again / "README.md").read_text()
    with pytest.raises(CnlabError, match=r"must end in \.safetensors"):
        export(replace(config, layout="single"))


def test_which_step(config: ExportConfig) -> None:
    shutil.copytree(config.run / STEP, config.run / "checkpoints" / "step-0000005")
    shutil.copytree(config.run / STEP, config.run / "checkpoints" / "step-0000020")
    card = {}
    for step in (None, 5):
        out = export(replace(config, step=step, out=config.out.with_name(f"out-{step}")))
        card[step] = " ".join((out / "README.md").read_text().split())  # tables are padded
    assert "| optimizer steps | 10 |" in card[None]
    assert "| images seen | 80 |" in card[None]
    assert "| optimizer steps | 5 |" in card[5]
    assert "samples.png" not in card[5]
    with pytest.raises(CnlabError, match="no checkpoint of step 7; there are: 5, 10, 20"):
        export(replace(config, step=7))
    (config.run / "summary.json").unlink()
    newest = (export(config) / "README.md").read_text()
    assert "Training was not finished: step 20 of" in newest
    with pytest.raises(CnlabError, match="neither a run"):
        export(replace(config, run=config.run / "samples"))


def test_a_variant_has_a_folder_but_no_single_file(config: ExportConfig, tmp_path: Path) -> None:
    write_json(config.run / STEP / "config.json", {"_class_name": "ControlNetLite", "channels": [8]})
    card = (export(config) / "README.md").read_text()
    assert "holds a ControlNetLite" in card
    with pytest.raises(CnlabError, match="place for ControlNetModel only: use --layout diffusers"):
        export(replace(config, layout="single", out=tmp_path / "lite.safetensors"))
    assert not (tmp_path / "lite.safetensors").exists()


def test_what_lies_there_already_is_safe(config: ExportConfig) -> None:
    out = export(config)
    before = (out / "config.json").stat().st_mtime_ns
    assert export(config) == out
    assert (out / "config.json").stat().st_mtime_ns == before
    half = replace(config, dtype="float16")
    with pytest.raises(CnlabError, match="exists and differs; choose another --out or add --overwrite"):
        export(half)
    assert all(value.dtype == torch.float32 for value in tensors(out).values())
    export(replace(half, overwrite=True))
    assert all(value.dtype == torch.float16 for value in tensors(out).values())
    (out / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(CnlabError, match=r"holds thesis\.txt, which no export wrote"):
        export(replace(config, overwrite=True))
    assert (out / "thesis.txt").read_text() == "irreplaceable"
    single = replace(config, layout="single", out=out.with_suffix(".safetensors"), overwrite=True)
    single.out.mkdir()
    with pytest.raises(CnlabError, match="is a folder; choose another --out"):
        export(single)
    with pytest.raises(CnlabError, match="names no file or folder of its own"):
        export(replace(config, out=Path()))
    assert [p.name for p in config.out.parent.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_full_disk_leaves_nothing_half_written(
    config: ExportConfig, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    if overwrite:
        export(replace(config, dtype="float16"))

    def full(_: Any, path: Path, **__: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(single_file, "save_file", full)
    with pytest.raises(OSError, match="disk full"):
        export(replace(config, overwrite=overwrite))
    assert config.out.exists() == overwrite
    if overwrite:
        assert all(value.dtype == torch.float16 for value in tensors(config.out).values())
    assert sorted(p.name for p in config.out.parent.iterdir()) == ["demo", *(["out"] if overwrite else [])]


def test_card_says_what_was_measured(config: ExportConfig) -> None:
    table(
        config.results,
        {},
        {"metric": "kid_lite0", "value": 119.25, "ci_low": np.nan, "ci_high": np.nan, "higher_is_better": False},
        {"metric": "broken", "value": np.nan},
        {"run": "demo/prior", "value": 0.253},
        {"run": "other", "value": 0.9},
        {"step": 400, "value": 0.8},
        {"step": None, "value": 0.7},
    )
    write_json(config.run / "convergence.json", {"converged": True, "step": 7, "interval": [5, 9], "reason": "a rise"})
    out = export(replace(config, license="openrail"))
    card = ModelCard.load(out / "README.md")
    found = {(r.metric_name, r.metric_value, r.dataset_name, r.dataset_split) for r in card.data.eval_results}
    assert found == {("canny_f1_2px", 0.611, "tiny", "eval"), ("kid_lite0", 119.25, "tiny", "eval")}
    assert card.data.model_name == "demo"
    assert card.data.license == "openrail"
    assert card.data.pipeline_tag == "text-to-image"
    assert {"controlnet", "diffusers", "text-to-image", "canny"} <= set(card.data.tags)
    text = card.text
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert ["canny\\_f1\\_2px", "0.611", "[0.588, 0.631]", "128", "higher", "tiny, eval", "0"] in cells
    assert ["kid\\_lite0", "119.2", "none", "128", "lower", "tiny, eval", "0"] in cells
    assert "a rise; 95 % interval 5 to 9" in text
    assert "nan" not in (out / "README.md").read_text().lower()
    assert "![" in text
    assert (out / "samples.png").is_file()


def test_card_without_results_says_so(config: ExportConfig) -> None:
    write_json(config.run / "convergence.json", {"converged": False, "step": None, "interval": None, "reason": "flat"})
    card = ModelCard.load(export(config) / "README.md")
    assert card.data.eval_results is None
    assert "has not been evaluated" in card.text
    assert "by the change-point test: flat" in card.text
    table(config.results, {"run": "other"})
    assert read_rows(config.results, "demo", 10) == []
    config.results.write_bytes(b"PAR1 no more")
    with pytest.raises(CnlabError, match="cannot be read"):
        export(replace(config, overwrite=True))


def test_hub_names_are_in_the_header_and_paths_nowhere(config: ExportConfig) -> None:
    summary, options = read_json(config.run / "summary.json"), read_json(config.run / "config.json")
    for model, expected in (("stable-diffusion-v1-5/stable-diffusion-v1-5", True), (str(config.run / "prior"), False)):
        (config.run / "prior").mkdir(exist_ok=True)
        options["config"]["model"] = model
        write_json(config.run / "summary.json", {**summary, "model": model})
        write_json(config.run / "config.json", options)
        out = export(replace(config, overwrite=True))
        card = ModelCard.load(out / "README.md")
        assert card.data.base_model == (model if expected else None)
        assert card.data.datasets == ["tiny"]
        assert str(config.run.parent) not in "".join(p.read_text() for p in out.glob("*.[jm][sd]*"))


def test_names_from_data_are_inert() -> None:
    evil = "x\n---\nlicense: mit\n<script>alert(1)</script> [click](https://evil.example) | ![i](https://e.example/p)"
    facts = Facts(
        name=evil,
        step=10,
        config={"config": {"model": evil, "lr": 1e-4, "schedule": evil}, "dataset": {"name": evil}},
        summary={"condition": evil},
        convergence={"converged": False, "reason": evil},
    )
    row = {**ROW, "dataset": evil, "metric": evil, "split": evil}
    text = card_text(facts, [row], CONTROL, "openrail")
    card = ModelCard(text)
    assert card.data.license == "openrail"
    assert card.data.model_name == evil.replace("\n", "\\n")
    assert len(card.data.eval_results) == 1
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(card.text)
    assert "<script" not in html
    assert "evil.example" in html
    assert "href" not in html
    assert "<img" not in html
    assert html.count("<h1>") == 1
    assert html.count("<tr>") == (1 + 6) + (1 + 1)  # each table with its head


@pytest.mark.parametrize("license", ["", "MIT or so", "mit\n---"])
def test_licence_is_an_identifier(license: str) -> None:
    with pytest.raises(CnlabError, match="is not an identifier"):
        card_text(Facts("demo"), [], CONTROL, license)


def test_configs_need_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, trainer.exchange.export; assert 'torch' not in sys.modules and 'pandas' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_card_of_sdxl_names_its_pipeline() -> None:
    text = card_text(Facts("demo"), [], {**CONTROL, "addition_embed_type": "text_time"}, "unknown")
    assert "StableDiffusionXLControlNetPipeline" in text
    assert json.dumps("path/of/this/folder") in text
