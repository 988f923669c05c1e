"""The recipes of the tabletop models, and the models as they ship."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.contract.errors import CnlabError
from pipeline.tabletop import render, sample_scene
from pipeline.tabletop.scene import COLORS, SHAPES
from trainer.nets.models import WEIGHTS, load_prior
from trainer.parallel import Ranks
from trainer.prior.clip import NAMED, SWAPS, contrastive_loss, named_objects, naming_loss, replaced, token_ids
from trainer.prior.fit import FitConfig, Task, batch_indices, fit, part_of_batch, seconds_per_step, steps_left
from trainer.prior.models import (
    LATENT_CHANNELS,
    TEXT_WIDTH,
    TOKENS,
    build_clip,
    build_tokenizer,
    build_unet,
    build_vae,
    swapped,
)
from trainer.prior.renders import OBJECT_CLASSES, class_shares, object_classes, renders
from trainer.state.checkpoint import latest_checkpoint, load_tensors

CAPTIONS = [sample_scene(5, i).caption for i in range(400)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    return build_tokenizer(CAPTIONS, tmp_path_factory.mktemp("tokenizer"))


def test_every_word_of_a_caption_is_one_token(tokenizer) -> None:  # type: ignore[no-untyped-def]
    for caption in CAPTIONS[:100]:
        words = caption.replace(",", " ,").split()
        assert tokenizer.tokenize(caption) == [w + "</w>" for w in words]
        assert len(words) + 2 <= TOKENS


def test_reloaded_tokenizer_is_the_same_and_takes_any_text(tokenizer, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from transformers import CLIPTokenizer

    tokenizer.save_pretrained(tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path)
    texts = [*CAPTIONS[:5], "", "Ünïcode 猫 & emoji 🎲, 42!", "word " * 90]
    assert torch.equal(token_ids(tokenizer, texts), token_ids(again, texts))
    assert token_ids(again, texts).shape == (8, TOKENS)
    assert again.decode(again("Ünïcode 猫").input_ids, skip_special_tokens=True).strip() == "ünïcode 猫"


@given(st.integers(0, len(CAPTIONS) - 1), st.integers(0, 3))
def test_a_swapped_caption_differs_in_two_words_of_one_kind(index: int, shift: int) -> None:
    caption = CAPTIONS[index]
    changed = swapped(caption, SWAPS[shift:] + SWAPS[:shift])
    before, after = caption.replace(",", "").split(), changed.replace(",", "").split()
    assert sorted(before) == sorted(after)
    moved = [w for w, v in zip(before, after, strict=True) if w != v]
    assert len(moved) in (0, 2)
    if moved:
        assert any(set(moved) <= set(kind) for kind in SWAPS)
    two = [w for w in before if w in SHAPES]
    if len(set(two)) > 1 or len({w for w in before if w in COLORS}) > 1:
        assert moved


def test_the_unet_has_sd15s_layout() -> None:
    unet = build_unet()
    assert [len(b.resnets) for b in unet.down_blocks] == [2, 2, 2, 2]
    encoder_blocks = 1 + sum(len(b.resnets) + bool(b.downsamplers) for b in unet.down_blocks)
    assert encoder_blocks == 12  # of the paper's section 3.2, conv_in counted; with the middle one 13 outputs
    assert build_vae().config.latent_channels == unet.config.in_channels


def test_clip_gives_equal_widths(tokenizer) -> None:  # type: ignore[no-untyped-def]
    clip = build_clip(tokenizer)
    seen = clip.get_image_features(pixel_values=torch.zeros(2, 3, 128, 128)).pooler_output
    said = clip.get_text_features(input_ids=token_ids(tokenizer, CAPTIONS[:2])).pooler_output
    assert seen.shape == said.shape == (2, 128)


def test_renders_resume_after_a_kill(tmp_path: Path) -> None:
    images, captions, shares, objects = renders(tmp_path, 3, 300, size=32, workers=1)
    assert captions[299] == sample_scene(3, 299).caption
    assert np.array_equal(images[7], render(sample_scene(3, 7), 32).image)
    ledger = tmp_path / "captions-3-300-32.jsonl"
    assert np.array_equal(shares[7], class_shares(render(sample_scene(3, 7), 32).segment))
    whole, parts, whole_objects = np.array(images), np.array(shares), np.array(objects)
    kept = next(s for s in ledger.read_text().splitlines() if s)
    ledger.write_text(kept + '\n{"start": 250, "capt')  # the kill came in the middle of a line
    broken = np.lib.format.open_memmap(tmp_path / "images-3-300-32.npy", mode="r+")
    missing = slice(250, 300) if json.loads(kept)["start"] == 0 else slice(0, 250)
    broken[missing] = 0
    broken.flush()
    again, texts, cells, classes = renders(tmp_path, 3, 300, size=32, workers=1)
    assert np.array_equal(again, whole)
    assert np.array_equal(cells, parts)
    assert np.array_equal(classes, whole_objects)
    assert texts == captions


def test_class_shares_counts_pixels() -> None:
    segment = np.zeros((16, 16), np.uint8)
    segment[:2, :2] = [[1, 1], [4, 0]]  # the first cell, 2 x 2: half floor, a quarter of class 4, a quarter wall
    shares = class_shares(segment)
    assert shares.shape == (8, 8, 7)
    assert shares[0, 0].tolist() == [64, 128, 0, 0, 64, 0, 0]
    assert (shares[1:] == [255, 0, 0, 0, 0, 0, 0]).all()


def test_object_classes_name_the_largest_object_of_a_cell() -> None:
    scene = next(s for s in (sample_scene(5, i) for i in range(50)) if len(s.solids) == 2)
    instance = np.zeros((32, 32), np.uint8)  # cells of 2 x 2
    instance[:2, :2] = [[3, 3], [3, 2]]
    instance[:2, 2:4] = 2
    instance[2:4, :2] = 1
    classes = object_classes(instance, scene.solids)
    assert classes.shape == (16, 16)
    first, second = (2 + 8 * SHAPES.index(t.shape) + list(COLORS).index(t.color) for t in scene.solids)
    assert classes[0, :3].tolist() == [second, first, 0]
    assert classes[1, 0] == 1
    assert classes.max() < OBJECT_CLASSES


def test_replaced_changes_one_word_of_the_kind() -> None:
    ids = torch.tensor([[9, 5, 7, 6, 0], [9, 7, 7, 7, 0], [9, 4, 7, 8, 0]] * 50)
    words = torch.tensor([4, 5, 6])
    out = replaced(ids, words, torch.Generator().manual_seed(1))
    changed = out != ids
    assert changed.sum(1).tolist() == [1, 0, 1] * 50
    assert torch.isin(out[changed], words).all()
    assert changed[0::3, 1].any() and changed[0::3, 3].any()  # either place
    assert set(out[2::3, 1].tolist()) == {5, 6}


def test_contrastive_loss_ignores_twins_and_counts_altered_captions() -> None:
    eye = torch.eye(3)
    ids = torch.tensor([[[1], [2], [3]], [[4], [5], [3]]])  # the third altered caption is the caption itself
    wrong = torch.stack([eye, eye])
    loss, logits = contrastive_loss(eye, wrong, ids, torch.tensor(10.0))
    assert logits.shape == (3, 4)
    assert logits[:, 3].tolist() == [10.0, 10.0, -1e4]
    right, _ = contrastive_loss(eye, torch.stack([eye, -eye]), ids, torch.tensor(10.0))
    assert right < 0.01 < loss
    twins, _ = contrastive_loss(eye[[0, 0]], eye[[0, 0]][None], torch.tensor([[[1], [1]]]), torch.tensor(10.0))
    assert twins == 0


def test_named_objects_reads_what_each_noun_is_said_to_be(tokenizer) -> None:  # type: ignore[no-untyped-def]
    captions = ["a large shiny white sphere, a small red cone and a cube on a sandy floor", "a floor"]
    places, words = named_objects(captions)
    ids = token_ids(tokenizer, captions)
    assert [tokenizer.decode(ids[0, place]).strip() for place in places[0]] == ["sphere", "cone", "cube"]
    said = [[kind[k] if k >= 0 else None for kind, k in zip(NAMED, row, strict=True)] for row in words[0].tolist()]
    assert said == [["sphere", "white", "shiny", "large"], ["cone", "red", None, "small"], ["cube", None, None, None]]
    assert (places[1] == 0).all() and (words[1] == -100).all()


def test_naming_loss_falls_only_as_states_part() -> None:
    names = torch.nn.functional.one_hot(torch.arange(sum(map(len, NAMED))), 32).float()
    words = torch.tensor([[[0, 1, 1, 0]], [[1, 1, 1, 0]]])
    offsets = np.cumsum([0, *map(len, NAMED[:-1])])
    apart = torch.stack([names[row[0] + torch.from_numpy(offsets)].sum(0) for row in words])[:, None]
    together = apart.mean(0, keepdim=True).expand_as(apart)
    near = together + 0.02 * (apart - together)  # tells the two as well, by a fiftieth of the distance
    losses = [naming_loss(states, names, words).item() for states in (apart, near, together)]
    assert losses[0] < losses[1] < losses[2]
    assert naming_loss(100 * near, names, words).item() == pytest.approx(losses[1])
    assert losses[1] > losses[0] + 0.8 * (losses[2] - losses[0])


def test_shipped_text_states_tell_shapes_apart() -> None:
    from transformers import CLIPTextModel, CLIPTokenizer

    folder = WEIGHTS / "tabletop-sd"
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval()
    words = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    captions = [f"a large matte yellow {shape} on a sandy floor" for shape in SHAPES]
    with torch.inference_mode():
        states = encoder(input_ids=token_ids(words, captions)).last_hidden_state
    nouns = states[:, int(named_objects(captions)[0][0, 0])]
    distance = torch.cdist(nouns, nouns) + 1e3 * torch.eye(len(SHAPES))
    assert distance.min() > 0.5 * nouns.norm(dim=-1).mean()  # .22 of it for cone and pyramid before they were named


def test_fit_resumes_bit_equal(tmp_path: Path) -> None:
    config = FitConfig(steps=9, lr=0.05, batch=4, warmup=2, ema_decay=0.5, save_every=3)
    target = torch.tensor([[1.0, -2.0, 0.5]])

    def run(folder: Path, dies_at: int | None = None) -> torch.Tensor:
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 1)

        def loss_of(step: int, g: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
            if step == dies_at:
                raise KeyboardInterrupt
            x = torch.randn(4, 3, generator=g)
            return (model(x) - x @ target.T).square().mean(), {}

        fit(Task("test", model, loss_of, config), folder)
        return torch.cat([p.flatten() for p in model.parameters()])

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", dies_at=7)
    found = latest_checkpoint(tmp_path / "cut")
    assert found is not None
    assert found.name == "step-0000006"
    assert torch.equal(run(tmp_path / "cut"), whole)


@pytest.mark.slow
def test_two_processes_average_to_what_one_computes(tmp_path: Path) -> None:
    from prior_fit_driver import fit_line

    one, two = tmp_path / "one", tmp_path / "two"
    fit_line(one, Ranks())
    code = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    driver = Path(__file__).with_name("prior_fit_driver.py")
    root = str(Path(__file__).parents[3])
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    done = subprocess.run([*code, str(driver), str(two)], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    for file in ("model", "ema", "optimizer"):
        ours, theirs = (load_tensors(d / "step-0000008" / f"{file}.safetensors") for d in (one, two))
        for name, value in ours.items():
            assert torch.allclose(value, theirs[name], atol=1e-6), (file, name)
    assert len((two / "log.jsonl").read_text().splitlines()) == 1, "one process alone writes"
    with pytest.raises(CnlabError, match="3 processes"):
        part_of_batch(Ranks(0, 3), 4)


def test_fit_leaves_averaged_weights_at_milestones_and_forecasts_change_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    config = FitConfig(steps=4, lr=0.05, batch=4, warmup=1, ema_decay=0.5, milestones=(2, 4))

    def loss_of(step: int, g: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        return model(torch.randn(4, 3, generator=g)).square().mean(), {}

    task = Task("test", model, loss_of, config)
    before = [p.detach().clone() for p in model.parameters()]
    assert seconds_per_step(task) > 0
    assert all(p.grad is None and torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    assert steps_left(config, tmp_path / "none") == 4
    fit(task, tmp_path)
    assert steps_left(config, tmp_path) == 0
    assert sorted(p.name for p in tmp_path.glob("ema-*")) == ["ema-0000002.safetensors", "ema-0000004.safetensors"]
    last = load_tensors(tmp_path / "ema-0000004.safetensors")
    assert all(torch.equal(v, last[k]) for k, v in model.state_dict().items()), "what the fit leaves in the model"
    assert not torch.equal(last["weight"], load_tensors(tmp_path / "ema-0000002.safetensors")["weight"])


def test_batches_cover_each_epoch_once() -> None:
    config = replace(FitConfig(steps=1, lr=1, batch=5), seed=2)
    seen = np.concatenate([batch_indices(config, step, 10) for step in range(4)])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert not np.array_equal(seen[:10], seen[10:])


def test_shipped_weights_are_small_whole_and_without_pickles() -> None:
    files = [p for p in WEIGHTS.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 30e6
    assert {p.suffix for p in files} <= {".safetensors", ".json", ".md", ".png", ".txt"}
    prior = load_prior("tabletop", torch.device("cpu"))
    assert prior.scheduler.config.prediction_type == "v_prediction"
    clip = load_tensors(WEIGHTS / "tabletop-clip" / "model.safetensors")
    theirs = prior.text_encoders[0].state_dict()
    ours = {k.removeprefix("text_model."): v for k, v in clip.items() if k.startswith("text_model.")}
    match = {k.removeprefix("text_model."): v for k, v in theirs.items()}
    assert ours.keys() == match.keys()
    assert all(torch.equal(v.float(), match[k]) for k, v in ours.items()), "the text encoder is the CLIP's text tower"


def test_shipped_autoencoder_keeps_pictures() -> None:
    from trainer.data.encode import to_model_range

    vae = load_prior("tabletop", torch.device("cpu")).vae
    x = to_model_range(np.stack([render(sample_scene(123, i)).image for i in range(4)]))
    with torch.inference_mode():
        y = vae.decode(vae.encode(x).latent_dist.mean).sample
    assert 10 * torch.log10(4 / (x - y).square().mean()) > 28


def test_a_longer_trapezoid_goes_on_from_where_the_rate_began_to_fall(tmp_path: Path) -> None:
    def run(steps: int, folder: Path, stop: int = 99) -> torch.Tensor:
        torch.manual_seed(0)
        model = torch.nn.Linear(1, 1)
        config = FitConfig(steps=steps, lr=0.05, batch=4, warmup=2, save_every=4, schedule="trapezoid")

        def loss_of(step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
            if step == stop:
                raise KeyboardInterrupt
            x = torch.randn(4, 1, generator=generator)
            return (model(x) - 2 * x - 1).square().mean(), {}

        task = Task("line", model, loss_of, config)
        assert stop != 99 or steps_left(config, folder) <= steps
        fit(task, folder)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    whole, short = run(40, tmp_path / "whole"), run(20, tmp_path / "grown")
    assert not torch.equal(whole, short)
    with pytest.raises(KeyboardInterrupt):
        run(40, tmp_path / "grown", stop=23)
    names = [p.name for p in sorted((tmp_path / "grown").glob("step-*"))]
    assert names == ["step-0000016", "step-0000020"]  # at 16 the short run's rate began to fall; this 20 is the new one
    assert steps_left(FitConfig(steps=40, lr=0.05, batch=4, schedule="trapezoid"), tmp_path / "grown") == 20
    assert torch.equal(run(40, tmp_path / "grown"), whole)
    assert torch.equal(run(20, tmp_path / "grown"), short)  # and back again


def test_a_cosine_of_other_steps_goes_on_from_what_is_there_and_deletes_nothing(tmp_path: Path) -> None:
    def task(steps: int) -> Task:
        model = torch.nn.Linear(1, 1)
        config = FitConfig(steps=steps, lr=0.05, batch=4, warmup=2, save_every=4)
        return Task("line", model, lambda step, g: (model(torch.randn(4, 1, generator=g)).square().mean(), {}), config)

    fit(task(8), tmp_path)
    assert steps_left(task(12).config, tmp_path) == 4
    fit(task(8), tmp_path)
    fit(task(4), tmp_path)
    assert [p.name for p in sorted(tmp_path.glob("step-*"))] == ["step-0000004", "step-0000008"]


def test_the_second_cycle_begins_the_low_levels_anew_and_touches_nothing_else() -> None:
    from trainer.prior import unet

    model = build_unet(LATENT_CHANNELS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    unet.revive(model, 4.0)
    after = model.state_dict()
    entering = {name for name in after if name.startswith("down_blocks.1.downsamplers.")}
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    low = {name for name in after if name.startswith(unet.LOW_LEVELS)}
    assert low | entering <= changed
    others = changed - low - entering
    assert others
    assert all(name.startswith("down_blocks.1.") and (".to_q." in name or ".to_k." in name) for name in others)
    assert all(torch.allclose(4.0 * after[name], before[name]) for name in entering)
    again = build_unet(LATENT_CHANNELS)
    unet.revive(again, 2.0)
    assert all(torch.equal(again.state_dict()[name], after[name]) for name in low)  # by a seed


def test_what_enters_the_low_levels_is_measured() -> None:
    from trainer.prior import unet

    model, rng = build_unet(LATENT_CHANNELS), np.random.default_rng(0)
    moments = rng.normal(size=(8, 2 * LATENT_CHANNELS, 16, 16)).astype(np.float16)
    states = rng.normal(size=(8, TOKENS, TEXT_WIDTH)).astype(np.float16)
    before = unet.entering_std(model, moments, states, 1.0)
    for parameter in model.down_blocks[1].downsamplers.parameters():
        parameter.data *= 50
    assert unet.entering_std(model, moments, states, 1.0) == pytest.approx(50 * before, rel=1e-3)
    unet.unet_task(moments, states, states[0], 1.0, model=model)
    assert unet.entering_std(model, moments, states, 1.0) == pytest.approx(1.0, rel=0.1)
