"""`tabletop-clip`: contrastive training (Radford et al., 2021) with wrong words as hard negatives.

Three things that plain pairs teach slowly are asked for directly: each image is also compared with captions of its own
in which words are exchanged (NegCLIP, Yuksekgonul et al., ICLR 2023) or replaced by another of their kind; a linear
head on the patches, thrown away afterwards, predicts how much of a patch each shape covers; and the text state of each
noun names its object. Without the first two, shapes stayed at 0.50 where colours reached 0.97; without the third, words
whose looks the pictures' tower cannot tell apart get nearly equal states, and a denoiser that reads them draws what is
between a cone and a pyramid (docs/log.md).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTokenizer

from pipeline.tabletop.scene import COLORS, FLOORS, MATERIALS, SHAPES, SIZES
from trainer.prior.cpu import autocast, use_plain_attention
from trainer.prior.fit import FitConfig, Task, batch_indices
from trainer.prior.models import TOKENS, build_clip, caption_words, swapped
from trainer.prior.renders import CLASSES, Renders

CONFIG = FitConfig(steps=2000, lr=1e-3, batch=128, warmup=150, ema_decay=0.995, weight_decay=0.05)
SWAPS = (tuple(COLORS), SHAPES, MATERIALS, SIZES)
KINDS = (tuple(COLORS), MATERIALS, SIZES, FLOORS)  # replaced in turn; shapes are replaced at every step
SHIFT = 8  # pixels, of the augmentation: half a patch
PATCH_WEIGHT = 1.0
NAMED = (SHAPES, tuple(COLORS), MATERIALS, SIZES)  # what the state of a noun names of its object
#: Of the cosines between states and names: fixed, so that only distance between states lowers the loss.
NAME_SCALE = 16.0
OBJECTS = 3  # at most, in a caption
#: CLIP's own normalisation (openai/clip-vit-base-patch32), sRGB in [0, 1].
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def clip_pixels(images: NDArray[np.uint8]) -> Tensor:
    """(B, S, S, 3) uint8 -> (B, 3, S, S) float32, CLIP-normalised."""
    x = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def shifted_pixels(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """(B, C, S, S) moved by up to SHIFT pixels each way, all alike; what comes in repeats the border."""
    dx, dy = (int(v) for v in torch.randint(0, 2 * SHIFT + 1, (2,), generator=generator))
    size = pixels.shape[-1]
    return F.pad(pixels, (SHIFT,) * 4, mode="replicate")[..., dy : dy + size, dx : dx + size]


def token_ids(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """(B, TOKENS) int64, padded and truncated."""
    out = tokenizer(texts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")
    ids: Tensor = out.input_ids
    return ids


def replaced(ids: Tensor, words: Tensor, generator: torch.Generator) -> Tensor:
    """Replace one random word of a kind in each text by another of that kind.

    ids    (B, T) int64 token ids; texts without such a word come back unchanged
    words  (K,) int64, the kind's words, one token each
    """
    weight = torch.isin(ids, words).double()
    some = weight.any(1)
    weight[~some] = 1
    place = torch.multinomial(weight, 1, generator=generator)
    was = ids.gather(1, place)
    index = (was == words).int().argmax(1)
    other = words[(index + torch.randint(1, len(words), index.shape, generator=generator)) % len(words)]
    return torch.where(some[:, None], ids.scatter(1, place, other[:, None]), ids)


def kind_ids(tokenizer: CLIPTokenizer, words: tuple[str, ...]) -> Tensor:
    """(K,) int64: the token of each of K words."""
    ids = tokenizer(list(words), add_special_tokens=False).input_ids
    assert all(len(i) == 1 for i in ids), "the tokenizer's vocabulary holds every word of the scenes' captions"
    return torch.tensor([i[0] for i in ids])


def named_objects(captions: list[str]) -> tuple[Tensor, Tensor]:
    """Where the nouns of each caption stand and what is said of their objects.

    Returns places (N, OBJECTS) int64, tokens from the start token on (0: no such object), and words
    (N, OBJECTS, len(NAMED)) int64, an index into each kind of `NAMED`; -100, which losses leave out, where nothing is
    said.
    """
    places = torch.zeros(len(captions), OBJECTS, dtype=torch.long)
    words = torch.full((len(captions), OBJECTS, len(NAMED)), -100)
    for row, caption in enumerate(captions):
        parts = caption_words(caption)
        nouns = [k for k, word in enumerate(parts) if word in SHAPES]
        for index, noun in enumerate(nouns):
            places[row, index] = noun + 1
            said = parts[max(noun - len(NAMED) + 1, 0) : noun + 1][::-1]  # the nearest counts
            for k, kind in enumerate(NAMED):
                words[row, index, k] = next((kind.index(word) for word in said if word in kind), -100)
    return places, words


def naming_loss(states: Tensor, names: Tensor, words: Tensor) -> Tensor:
    """Cross-entropy of what the states of nouns say of their objects, by cosine to one vector a word.

    states  (B, OBJECTS, D), names (K, D) with the words of all kinds of `NAMED` in order, words as `named_objects`
    """
    logits = NAME_SCALE * F.normalize(states.float(), dim=-1) @ F.normalize(names, dim=-1).T
    parts = logits.split([len(kind) for kind in NAMED], -1)
    return torch.stack([F.cross_entropy(p.flatten(0, 1), words[..., k].flatten()) for k, p in enumerate(parts)]).mean()


def contrastive_loss(images: Tensor, texts: Tensor, ids: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric InfoNCE of B images with their captions and, for each image, its own altered captions.

    images (B, D), texts (G, B, D), unit length: captions, then G - 1 altered versions; ids (G, B, T) their tokens.
    Equal texts are no negatives of each other. Returns the loss and the logits (B, B + G - 1).
    """
    eye = torch.eye(len(images), dtype=torch.bool)
    twins = (ids[0][:, None] == ids[0][None]).all(-1) & ~eye
    logits = (scale * images @ texts[0].T).masked_fill(twins, -1e4)
    own = (scale * (images[None] * texts[1:]).sum(-1)).masked_fill((ids[1:] == ids[:1]).all(-1), -1e4).T
    target = torch.arange(len(images))
    both = torch.cat([logits, own], 1)
    return (F.cross_entropy(both, target) + F.cross_entropy(logits.T, target)) / 2, both


def clip_task(data: Renders, tokenizer: CLIPTokenizer) -> tuple[CLIPModel, Task]:
    """The CLIP, untrained, and what trains it on the prior's renders."""
    torch.manual_seed(11)
    model = build_clip(tokenizer)
    use_plain_attention(model)
    head = nn.Linear(model.config.vision_config.hidden_size, CLASSES)
    names = nn.Embedding(sum(map(len, NAMED)), model.config.text_config.hidden_size)
    places, words = named_objects(data.captions)
    ids = token_ids(tokenizer, data.captions)
    orders = (SWAPS[k % len(SWAPS) :] + SWAPS[: k % len(SWAPS)] for k in range(len(ids)))
    exchanged = token_ids(tokenizer, [swapped(c, order) for c, order in zip(data.captions, orders, strict=True)])
    shapes, kinds = kind_ids(tokenizer, SHAPES), [kind_ids(tokenizer, words) for words in KINDS]

    def loss_of(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        pick = np.sort(batch_indices(CONFIG, step, len(ids)))
        at = torch.from_numpy(pick)
        pixels = clip_pixels(data.images[pick])
        shifted = bool(step % 2)  # the caption stays true; the patches' shares do not
        if shifted:
            pixels = shifted_pixels(pixels, generator)
        kind = kinds[step % len(kinds)]
        texts = torch.stack(
            [ids[at], exchanged[at], replaced(ids[at], shapes, generator), replaced(ids[at], kind, generator)]
        )
        texts = texts[..., : int((texts != tokenizer.pad_token_id).sum(-1).max()) + 1]  # the end token is the padding
        with autocast():
            vision = model.vision_model(pixel_values=pixels)
            pictures = model.visual_projection(vision.pooler_output)
            text = model.text_model(input_ids=texts.flatten(0, 1))
            read = model.text_projection(text.pooler_output)
            patches = head(vision.last_hidden_state[:, 1:]).float()
        pictures, read = F.normalize(pictures.float(), dim=-1), F.normalize(read.float(), dim=-1)
        scale = model.logit_scale.exp().clamp(max=100)
        loss, logits = contrastive_loss(pictures, read.unflatten(0, texts.shape[:2]), texts, scale)
        nouns = text.last_hidden_state[: len(at)].gather(1, places[at][..., None].expand(-1, -1, names.embedding_dim))
        by_noun = naming_loss(nouns, names.weight, words[at])
        loss = loss + by_noun
        top1 = (logits.argmax(1) == torch.arange(len(at))).float().mean().item()
        figures = {"top1": top1, "scale": scale.item(), "nouns": by_noun.item()}
        if not shifted:
            shares = torch.from_numpy(data.shares[pick]).flatten(1, 2).float() / 255
            by_patch = F.cross_entropy(patches.flatten(0, 1), shares.flatten(0, 1))
            loss = loss + PATCH_WEIGHT * by_patch
            figures["patches"] = by_patch.item()
        return loss, figures

    return model, Task("clip", nn.ModuleDict({"clip": model, "patches": head, "names": names}), loss_of, CONFIG)
