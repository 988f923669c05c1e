"""`tabletop-judge`: its labels, its wrong captions, what is saved of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.tabletop import render, sample_scene
from pipeline.tabletop.scene import COLORS, SHAPES
from trainer.prior.clip import clip_pixels, kind_ids, token_ids
from trainer.prior.cpu import use_plain_attention
from trainer.prior.judge import (
    CELL,
    _Texts,
    _vision_batch,
    build_judge,
    cell_loss,
    every_other,
    mirrored,
    present_pairs,
)
from trainer.prior.models import build_tokenizer
from trainer.prior.renders import Renders, class_shares, object_classes

CAPTIONS = [sample_scene(5, i).caption for i in range(400)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    return build_tokenizer(CAPTIONS, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def made() -> Renders:
    scenes = [sample_scene(6, i) for i in range(4)]
    pictures = [render(scene, 128) for scene in scenes]
    return Renders(
        np.stack([p.image for p in pictures]),
        [scene.caption for scene in scenes],
        np.stack([class_shares(p.segment) for p in pictures]),
        np.stack([object_classes(p.instance, s.solids) for p, s in zip(pictures, scenes, strict=True)]),
    )


def test_present_pairs_are_those_of_the_caption() -> None:
    row = present_pairs(["a small metallic cyan cone to the left of a large matte red sphere on a slate floor"])[0]
    colors = list(COLORS)
    pairs = {(SHAPES.index(s) * len(colors) + colors.index(c)) for c, s in (("cyan", "cone"), ("red", "sphere"))}
    assert set(row.nonzero().flatten().tolist()) == pairs


def test_every_other_word_of_a_kind_comes_once_in_one_place(tokenizer) -> None:  # type: ignore[no-untyped-def]
    ids, words = token_ids(tokenizer, CAPTIONS[:20]), kind_ids(tokenizer, SHAPES)
    others = every_other(ids, words, torch.Generator().manual_seed(2))
    assert others.shape == (len(SHAPES) - 1, *ids.shape)
    changed = (others != ids).all(0)
    assert changed.sum(1).tolist() == [1] * 20
    assert ((others != ids).any(0) == changed).all()
    for text, versions in zip(ids, others.transpose(0, 1), strict=True):
        place = int((versions[0] != text).nonzero())
        assert sorted([*versions[:, place].tolist(), int(text[place])]) == sorted(words.tolist())


def test_mirrored_captions_change_sides_only() -> None:
    assert mirrored(["a red cone to the left of a cube"]) == ["a red cone to the right of a cube"]
    assert mirrored(mirrored(CAPTIONS)) == CAPTIONS
    assert mirrored(["a cone and a cube"]) == ["a cone and a cube"]


def test_wrong_captions_are_wrong_and_the_first_is_right(tokenizer) -> None:  # type: ignore[no-untyped-def]
    texts = _Texts(tokenizer, CAPTIONS)
    batch = texts.batch(torch.arange(16), True, 3, torch.Generator().manual_seed(1))
    assert batch.shape[:2] == (8, 16)
    right = token_ids(tokenizer, mirrored(CAPTIONS[:16]))[:, : batch.shape[-1]]
    assert torch.equal(batch[0], right)
    assert (batch[2:] != right).any(-1).all()


@pytest.mark.parametrize("shift", [(0, 0), (3, 0), (0, 6), (7, 7)])
def test_classes_move_with_the_picture(made: Renders, shift: tuple[int, int]) -> None:
    """Where the picture is one colour a class, patch means and classes tell the same story after a shift and a turn."""
    painted = np.repeat(np.repeat(made.objects, CELL, 1), CELL, 2)[..., None].repeat(3, -1)
    pixels, classes = _vision_batch(made._replace(images=painted), np.arange(4), True, shift)
    still, _ = _vision_batch(made._replace(images=painted), np.arange(4), False, (0, 0))
    levels = {int(c): still[:, 0][torch.from_numpy(painted[..., 0]) == int(c)][0] for c in np.unique(painted)}
    centres = pixels[:, 0, CELL // 2 :: CELL, CELL // 2 :: CELL].flatten(1)
    expected = torch.tensor([[float(levels[int(c)]) for c in row] for row in classes])
    agree = (centres - expected).abs() < 1e-4
    assert agree.float().mean() > 0.97


def test_objects_count_as_much_as_what_is_behind_them() -> None:
    shapes, colors = len(SHAPES) + 2, len(COLORS)
    classes = torch.tensor([[0, 0, 0, 2 + colors * 3 + 5]])  # the fourth shape in the sixth colour
    logits = torch.zeros(1, 4, shapes + colors)
    assert cell_loss(logits, classes).item() == pytest.approx(np.log(shapes) + np.log(colors) / 2)
    logits[0, :3, 0] = 100.0  # background right, the object as before
    assert cell_loss(logits, classes).item() == pytest.approx((np.log(shapes) + np.log(colors)) / 2)
    logits[0, 3, 2 + 3] = 100.0  # and its shape
    assert cell_loss(logits, classes).item() == pytest.approx(np.log(colors) / 2)
    logits[0, 3, shapes + 5] = 100.0
    assert cell_loss(logits, classes).item() == pytest.approx(0)
    assert cell_loss(logits[:, :3], classes[:, :3]).item() == pytest.approx(0)


def test_a_saved_judge_loads_as_any_clip_does(tokenizer, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from pipeline.contract.clip import load_clip
    from trainer.prior.assemble import save_clip

    model = build_judge(tokenizer)
    use_plain_attention(model.text_model)
    save_clip(model, tokenizer, tmp_path)
    again = load_clip(str(tmp_path))
    pictures = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
    model.half().float().eval()
    with torch.no_grad():
        ours = model.get_image_features(pixel_values=clip_pixels(pictures)).pooler_output
        read = model.get_text_features(input_ids=token_ids(tokenizer, CAPTIONS[:3])).pooler_output
    assert np.allclose(again.images(pictures), ours, atol=1e-4)
    assert np.allclose(again.texts(CAPTIONS[:3]), read, atol=1e-4)
    assert (tmp_path / "model.safetensors").stat().st_size < 6e6


def test_a_model_without_two_towers_is_named(tokenizer, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from pipeline.contract.clip import load_clip
    from pipeline.contract.errors import CnlabError

    build_judge(tokenizer).text_model.save_pretrained(tmp_path)
    with pytest.raises(CnlabError, match="no picture and text towers"):
        load_clip(str(tmp_path))
