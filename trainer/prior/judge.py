"""`tabletop-judge`: a CLIP that only judges; the prior shares neither its seed, nor its pictures, nor its size.

Patches of 8 pixels instead of 16, for a cone and a pyramid differ in a few pixels. Three things make so small a
transformer see shapes within minutes: its attention starts out local (after Zheng et al., "Structured Initialization
for Vision Transformers", 2024), a head that is thrown away afterwards names shape and colour of what covers each patch,
and another names those that are anywhere in the picture. The contrastive loss compares a picture with its caption under
every other shape, and with other wrong words.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from pipeline.tabletop.scene import COLORS, SHAPES
from trainer.prior.clip import KINDS, SWAPS, clip_pixels, contrastive_loss, kind_ids, replaced, token_ids
from trainer.prior.cpu import autocast, use_plain_attention
from trainer.prior.fit import FitConfig, Task, batch_indices
from trainer.prior.models import IMAGE_SIZE, TOKENS, swapped
from trainer.prior.renders import OBJECT_CLASSES, Renders

CONFIG = FitConfig(steps=1500, lr=1.5e-3, batch=48, warmup=60, ema_decay=0.99, weight_decay=0.05, save_every=50, seed=5)
PATCH, WIDTH, HEADS, LAYERS, TEXT_WIDTH, TEXT_LAYERS = 8, 128, 4, 6, 128, 2
PAIRS = OBJECT_CLASSES - 2  # shapes times colours
PATCH_WEIGHT, PAIR_WEIGHT = 2.0, 10.0  # beside a contrastive loss that starts at 4
#: Frequencies of the position code, in half turns over the picture: an odd series peaks within a patch.
FREQUENCIES = (1, 3, 5, 7)
SHARPNESS = 2.5  # of the first attention: a neighbour of the cell that is looked at gets a few per cent
#: Where the four heads of a layer look at first, in patches (right, down); three kinds of layers in turn.
OFFSETS = (
    ((1, 0), (-1, 0), (0, 1), (0, -1)),
    ((1, 1), (-1, -1), (-1, 1), (1, -1)),
    ((2, 0), (-2, 0), (0, 2), (0, -2)),
)


def build_judge(tokenizer: CLIPTokenizer) -> CLIPModel:
    """A CLIP of 256 patches of 8 px, four heads that start local, and a text tower of two layers."""
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    model = CLIPModel(
        CLIPConfig(
            text_config={
                **ids,
                "hidden_size": TEXT_WIDTH,
                "intermediate_size": 4 * TEXT_WIDTH,
                "num_hidden_layers": TEXT_LAYERS,
                "num_attention_heads": 4,
                "vocab_size": len(tokenizer),
                "max_position_embeddings": TOKENS,
                "pad_token_id": tokenizer.pad_token_id,
                "projection_dim": 128,
            },
            vision_config={
                "hidden_size": WIDTH,
                "intermediate_size": 4 * WIDTH,
                "num_hidden_layers": LAYERS,
                "num_attention_heads": HEADS,
                "image_size": IMAGE_SIZE,
                "patch_size": PATCH,
                "projection_dim": 128,
            },
            projection_dim=128,
        )
    )
    start_local(model)
    return model


def _position_code(side: int) -> Tensor:
    """(side * side, 16) float32: cosine and sine of both coordinates at FREQUENCIES, row by row."""
    at = torch.arange(side) * math.pi / side
    angles = at[:, None] * torch.tensor(FREQUENCIES)
    code = torch.stack([angles.cos(), angles.sin()], -1).flatten(1)  # (side, 8)
    x, y = code[None].expand(side, -1, -1), code[:, None].expand(-1, side, -1)
    return torch.cat([x, y], -1).flatten(0, 1)


def _rotation(offset: tuple[int, int], side: int) -> Tensor:
    """(16, 16): takes the code of a patch to that of the patch ``offset`` away."""
    blocks = []
    for steps in offset:
        for frequency in FREQUENCIES:
            turn = torch.tensor(steps * frequency * math.pi / side)
            blocks.append(torch.stack([torch.stack([turn.cos(), -turn.sin()]), torch.stack([turn.sin(), turn.cos()])]))
    rotation: Tensor = torch.block_diag(*blocks)
    return rotation


@torch.no_grad()
def start_local(model: CLIPModel) -> None:
    """Set positions, queries and keys so that at first each head looks at one neighbour of each patch.

    The first 16 channels carry the position code and nothing else: no other layer writes there at first.
    """
    tower, code = model.vision_model, _position_code(IMAGE_SIZE // PATCH)
    channels, side = code.shape[1], IMAGE_SIZE // PATCH
    embeddings = tower.embeddings
    content = embeddings.patch_embedding.weight[:channels].numel() ** 0.5 / channels**0.5
    content *= embeddings.patch_embedding.weight.std().item()  # standard deviation of a channel for unit pixels
    embeddings.patch_embedding.weight[:channels] = 0
    embeddings.position_embedding.weight[:, :channels] = 0
    embeddings.position_embedding.weight[1:, :channels] = code * content * 2**0.5
    embeddings.class_embedding[:channels] = 0
    width = WIDTH // HEADS
    gain = (SHARPNESS * width**0.5 / 2) ** 0.5  # the code has amplitude sqrt(2) behind the layer norm
    for depth, layer in enumerate(tower.encoder.layers):
        attention = layer.self_attn
        for head, offset in enumerate(OFFSETS[depth % len(OFFSETS)]):
            rows = slice(head * width, head * width + channels)
            for part, matrix in ((attention.q_proj, _rotation(offset, side)), (attention.k_proj, torch.eye(channels))):
                part.weight[rows] = 0
                part.weight[rows, :channels] = gain * matrix
        attention.out_proj.weight[:channels] = 0
        layer.mlp.fc2.weight[:channels] = 0


def present_pairs(captions: list[str]) -> Tensor:
    """Which shapes in which colours a caption names, (N, 40) float32 of 0 and 1, in the order of `object_classes`."""
    out = torch.zeros(len(captions), PAIRS)
    colors = list(COLORS)
    for row, caption in zip(out, captions, strict=True):
        words = caption.replace(",", "").split()
        for before, word in itertools.pairwise(words):
            if word in SHAPES:
                row[len(colors) * SHAPES.index(word) + colors.index(before)] = 1
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
    """Normalised pixels (B, 3, S, S) float32 and object classes (B, 256) int64, both moved by whole patches' parts.

    ``shift``: pixels (right, down) in [0, PATCH): the picture moves, and so do the classes once it is half a patch.
    """
    pixels = clip_pixels(data.images[pick])
    classes = torch.from_numpy(data.objects[pick].astype(np.int64))
    dx, dy = shift
    size, cells = pixels.shape[-1], classes.shape[-1]
    pixels = F.pad(pixels, (PATCH,) * 4, mode="replicate")[..., PATCH - dy :, PATCH - dx :][..., :size, :size]
    moved = [(v + PATCH // 2) // PATCH for v in (dx, dy)]
    index = [(torch.arange(cells) - v).clamp(min=0) for v in moved]
    classes = classes[:, index[1]][:, :, index[0]]
    if flip:
        pixels, classes = pixels.flip(-1), classes.flip(-1)
    return pixels, classes.flatten(1)


def cell_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy of (B, P, OBJECT_CLASSES) logits and (B, P) classes; objects count as much as wall and floor.

    They cover a fifth of the cells: one mean over all would be about backgrounds (docs/log.md).
    """
    each = F.cross_entropy(logits.flatten(0, 1), classes.flatten(), reduction="none")
    objects = (classes.flatten() > 1).float()
    background = 1 - objects
    of_objects = (each * objects).sum() / objects.sum().clamp(min=1)
    return (of_objects + (each * background).sum() / background.sum().clamp(min=1)) / 2


def judge_task(data: Renders, tokenizer: CLIPTokenizer) -> tuple[CLIPModel, Task]:
    """The judge, untrained, and what trains it on ``data``."""
    torch.manual_seed(15)
    model = build_judge(tokenizer)
    use_plain_attention(model)
    heads = nn.ModuleDict({"patches": nn.Linear(WIDTH, OBJECT_CLASSES), "pairs": nn.Linear(WIDTH, PAIRS)})
    texts, pairs = _Texts(tokenizer, data.captions), present_pairs(data.captions)

    def loss_of(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        pick = np.sort(batch_indices(CONFIG, step, len(pairs)))
        at = torch.from_numpy(pick)
        flip = bool(step % 2)
        dx, dy = (int(v) for v in torch.randint(0, PATCH, (2,), generator=generator))
        pixels, classes = _vision_batch(data, pick, flip, (dx, dy))
        ids = texts.batch(at, flip, step, generator)
        with autocast():
            vision = model.vision_model(pixel_values=pixels)
            patches = heads["patches"](vision.last_hidden_state[:, 1:]).float()
            anywhere = heads["pairs"](vision.pooler_output).float()
            pictures = model.visual_projection(vision.pooler_output)
            read = model.get_text_features(input_ids=ids.flatten(0, 1)).pooler_output
        pictures, read = F.normalize(pictures.float(), dim=-1), F.normalize(read.float(), dim=-1)
        scale = model.logit_scale.exp().clamp(max=100)
        loss, logits = contrastive_loss(pictures, read.unflatten(0, ids.shape[:2]), ids, scale)
        by_patch = cell_loss(patches, classes)
        by_pair = F.binary_cross_entropy_with_logits(anywhere, pairs[at])
        own = torch.cat([logits.diagonal()[:, None], logits[:, -4:]], 1)
        figures = {
            "top1": (logits.argmax(1) == torch.arange(len(at))).float().mean().item(),
            "shape": (own.argmax(1) == 0).float().mean().item(),
            "scale": scale.item(),
            "patches": by_patch.item(),
            "pairs": by_pair.item(),
        }
        return loss + PATCH_WEIGHT * by_patch + PAIR_WEIGHT * by_pair, figures

    return model, Task("judge", nn.ModuleDict({"clip": model, "heads": heads}), loss_of, CONFIG)
