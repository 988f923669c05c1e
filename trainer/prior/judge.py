"""`tabletop-judge`: a CLIP that only judges; the prior shares neither its seed, nor its pictures, nor its architecture.

Its vision tower is a small ConvNeXt (Liu et al., CVPR 2022): a cone and a pyramid differ in a few pixels, which a
transformer of this size learns to see slowly (docs/log.md). Two heads that are thrown away afterwards teach it: one
names shape and colour of what covers each cell, the other the objects that are anywhere in the picture. The
contrastive loss compares a picture with its caption under every other shape, and with other wrong words.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTokenizer,
    ConvNextConfig,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
)

from pipeline.tabletop.scene import COLORS, SHAPES
from trainer.prior.clip import (
    KINDS,
    SWAPS,
    clip_pixels,
    contrastive_loss,
    kind_ids,
    named_objects,
    replaced,
    token_ids,
)
from trainer.prior.cpu import autocast, use_plain_attention
from trainer.prior.fit import FitConfig, Task, batch_indices
from trainer.prior.models import IMAGE_SIZE, TOKENS, swapped
from trainer.prior.renders import Renders

CONFIG = FitConfig(
    steps=3000,
    lr=2e-3,
    batch=48,
    warmup=50,
    ema_decay=0.99,
    weight_decay=0.05,
    save_every=50,
    seed=5,
    schedule="trapezoid",
)
STEM, WIDTHS, DEPTHS = 4, (48, 128), (1, 3)  # pixels a side of the stem's patches; channels and blocks a stage
CELL = STEM * 2 ** (len(WIDTHS) - 1)  # pixels a side of what a cell of the last stage stands for
TEXT_WIDTH, TEXT_LAYERS, EMBEDDING = 128, 2, 128
PAIRS = len(SHAPES) * len(COLORS)
GROUNDS = 2  # wall and floor, the first classes of a cell
CELL_WEIGHT, PAIR_WEIGHT = 2.0, 10.0  # beside a contrastive loss that starts at 4


def build_judge(tokenizer: CLIPTokenizer) -> VisionTextDualEncoderModel:
    """A ConvNeXt of 16 x 16 cells of 8 px and a text tower of two layers."""
    text = CLIPTextConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=4,
        vocab_size=len(tokenizer),
        max_position_embeddings=TOKENS,
        projection_dim=EMBEDDING,
    )
    vision = ConvNextConfig(
        hidden_sizes=list(WIDTHS),
        depths=list(DEPTHS),
        num_stages=len(WIDTHS),
        patch_size=STEM,
        image_size=IMAGE_SIZE,
        layer_scale_init_value=1.0,  # so few blocks need no start near the identity
        initializer_range=0.05,
        hidden_size=WIDTHS[-1],  # which the two-tower class asks for
    )
    config = VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=EMBEDDING)
    return VisionTextDualEncoderModel(config)


def present_pairs(captions: list[str]) -> Tensor:
    """Which shapes in which colours a caption names, (N, 40) float32 of 0 and 1, in the order of `object_classes`."""
    out = torch.zeros(len(captions), PAIRS)
    shapes, colors = named_objects(captions)[1][..., :2].unbind(-1)
    row, index = ((shapes >= 0) & (colors >= 0)).nonzero(as_tuple=True)
    out[row, len(COLORS) * shapes[row, index] + colors[row, index]] = 1
    return out


def every_other(ids: Tensor, words: Tensor, generator: torch.Generator) -> Tensor:
    """Each text with one random word of a kind replaced by every other of that kind, (K - 1, B, T) int64.

    ids (B, T) int64 token ids, each with a word of the kind; words (K,) int64, one token each.
    """
    place = torch.multinomial(torch.isin(ids, words).double(), 1, generator=generator)
    index = (ids.gather(1, place) == words).int().argmax(1)
    return torch.stack([ids.scatter(1, place, words[(index + k) % len(words)][:, None]) for k in range(1, len(words))])


def mirrored(captions: list[str]) -> list[str]:
    """The captions of the pictures turned left to right."""
    sides = {"left": "right", "right": "left"}
    return [" ".join(sides.get(w, w) for w in c.split(" ")) for c in captions]


class _Texts:
    """Token ids of every render's caption, plain and mirrored, and the wrong captions of a batch."""

    def __init__(self, tokenizer: CLIPTokenizer, captions: list[str]) -> None:
        orders = [SWAPS[k % len(SWAPS) :] + SWAPS[: k % len(SWAPS)] for k in range(len(captions))]
        self.ids, self.exchanged = [], []
        for texts in (captions, mirrored(captions)):
            self.ids.append(token_ids(tokenizer, texts))
            wrong = [swapped(c, order) for c, order in zip(texts, orders, strict=True)]
            self.exchanged.append(token_ids(tokenizer, wrong))
        self.shapes = kind_ids(tokenizer, SHAPES)
        self.kinds = [kind_ids(tokenizer, words) for words in KINDS]
        self.padding = tokenizer.pad_token_id

    def batch(self, at: Tensor, flip: bool, step: int, generator: torch.Generator) -> Tensor:
        """(8, B, T) int64: the captions, then seven altered versions; T is the longest text's length."""
        ids, exchanged = self.ids[flip][at], self.exchanged[flip][at]
        colors, other = self.kinds[0], self.kinds[1 + step % (len(self.kinds) - 1)]
        texts = torch.cat(
            [
                torch.stack([ids, exchanged, replaced(ids, colors, generator), replaced(ids, other, generator)]),
                every_other(ids, self.shapes, generator),
            ]
        )
        return texts[..., : int((texts != self.padding).sum(-1).max()) + 1]  # the end token is the padding


def _vision_batch(data: Renders, pick: NDArray[np.int64], flip: bool, shift: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Normalised pixels (B, 3, S, S) float32 and object classes (B, 256) int64, both moved by whole cells' parts.

    ``shift``: pixels (right, down) in [0, CELL): the picture moves, and so do the classes once it is half a cell.
    """
    pixels = clip_pixels(data.images[pick])
    classes = torch.from_numpy(data.objects[pick].astype(np.int64))
    dx, dy = shift
    size, cells = pixels.shape[-1], classes.shape[-1]
    pixels = F.pad(pixels, (CELL,) * 4, mode="replicate")[..., CELL - dy :, CELL - dx :][..., :size, :size]
    moved = [(v + CELL // 2) // CELL for v in (dx, dy)]
    index = [(torch.arange(cells) - v).clamp(min=0) for v in moved]
    classes = classes[:, index[1]][:, :, index[0]]
    if flip:
        pixels, classes = pixels.flip(-1), classes.flip(-1)
    return pixels, classes.flatten(1)


def cell_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy of what covers each cell: wall, floor or which shape, and of what colour where it is an object.

    logits (B, P, 2 + shapes + colours) float32, classes (B, P) int64 in [0, OBJECT_CLASSES). Objects count as much as
    wall and floor: they cover a fifth of the cells, and one mean over all would be about backgrounds. Shape and colour
    apart: as one class of forty, each shape would be learnt eight times (docs/log.md).
    """
    logits, classes = logits.flatten(0, 1), classes.flatten()
    objects = classes >= GROUNDS
    shapes = torch.where(objects, (classes - GROUNDS) // len(COLORS) + GROUNDS, classes)
    each = F.cross_entropy(logits[:, : -len(COLORS)], shapes, reduction="none")
    colors = F.cross_entropy(
        logits[objects, -len(COLORS) :], (classes[objects] - GROUNDS) % len(COLORS), reduction="sum"
    )
    of_objects = (each[objects].sum() + colors) / objects.sum().clamp(min=1)
    return (of_objects + each[~objects].sum() / (~objects).sum().clamp(min=1)) / 2


def judge_task(data: Renders, tokenizer: CLIPTokenizer) -> tuple[VisionTextDualEncoderModel, Task]:
    """The judge, untrained, and what trains it on ``data``."""
    torch.manual_seed(15)
    model = build_judge(tokenizer)
    use_plain_attention(model.text_model)
    cells = nn.Sequential(nn.LayerNorm(WIDTHS[-1]), nn.Linear(WIDTHS[-1], GROUNDS + len(SHAPES) + len(COLORS)))
    heads = nn.ModuleDict({"cells": cells, "pairs": nn.Linear(WIDTHS[-1], PAIRS)})
    texts, pairs = _Texts(tokenizer, data.captions), present_pairs(data.captions)

    def loss_of(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        pick = np.sort(batch_indices(CONFIG, step, len(pairs)))
        at = torch.from_numpy(pick)
        flip = bool(step % 2)
        dx, dy = (int(v) for v in torch.randint(0, CELL, (2,), generator=generator))
        pixels, classes = _vision_batch(data, pick, flip, (dx, dy))
        ids = texts.batch(at, flip, step, generator)
        with autocast():
            vision = model.vision_model(pixel_values=pixels)
            cells = heads["cells"](vision.last_hidden_state.flatten(2).transpose(1, 2)).float()
            anywhere = heads["pairs"](vision.pooler_output).float()
            pictures = model.visual_projection(vision.pooler_output)
            read = model.get_text_features(input_ids=ids.flatten(0, 1)).pooler_output
        pictures, read = F.normalize(pictures.float(), dim=-1), F.normalize(read.float(), dim=-1)
        scale = model.logit_scale.exp().clamp(max=100)
        loss, logits = contrastive_loss(pictures, read.unflatten(0, ids.shape[:2]), ids, scale)
        by_cell = cell_loss(cells, classes)
        by_pair = F.binary_cross_entropy_with_logits(anywhere, pairs[at])
        own = torch.cat([logits.diagonal()[:, None], logits[:, -4:]], 1)
        figures = {
            "top1": (logits.argmax(1) == torch.arange(len(at))).float().mean().item(),
            "shape": (own.argmax(1) == 0).float().mean().item(),
            "scale": scale.item(),
            "cells": by_cell.item(),
            "pairs": by_pair.item(),
        }
        return loss + CELL_WEIGHT * by_cell + PAIR_WEIGHT * by_pair, figures

    return model, Task("judge", nn.ModuleDict({"clip": model, "heads": heads}), loss_of, CONFIG)
