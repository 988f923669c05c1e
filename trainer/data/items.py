"""Training data as the loop wants it: cached latents, encoded maps, captions, in an order that resumes anywhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from pipeline.conditions.base import FLIP_UNSAFE
from pipeline.contract.dataset import Triplets
from pipeline.contract.identity import fingerprint
from pipeline.contract.pictures import decode_image
from trainer.data.cache import RowCache
from trainer.nets.models import Prior

ENCODE_BATCH = 32  # images or captions at a time; fixed, so that cached bits never depend on a run's options
SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)  # captions with these words are not mirrored


def to_model_range(images: NDArray[np.uint8]) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [-1, 1], what the autoencoder takes."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def map_tensor(png: bytes) -> Tensor:
    """PNG bytes -> (3, H, W) float32 in [0, 1], what ControlNet takes (unlike targets, which are in [-1, 1])."""
    return torch.from_numpy(decode_image(png)).permute(2, 0, 1).float() / 255


def _bytes_of(table: pa.Table, column: str) -> pa.Array:
    """An image column's bytes as one Arrow array: no Python object a row, shared with forked workers."""
    parts = [pa.compute.struct_field(part, "bytes").cast(pa.large_binary()) for part in table[column].chunks]
    return pa.concat_arrays(parts)


@torch.inference_mode()
def _moments(prior: Prior, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    pixels = to_model_range(images).to(prior.vae.device)
    posterior = prior.vae.encode(pixels).latent_dist
    return torch.cat([posterior.mean, posterior.std], 1).cpu().numpy()


def latent_cache(triplets: Triplets, split: str, prior: Prior, model: str, mirrored: bool = False) -> RowCache:
    """Where `latent_moments` keeps what it computes."""
    total, side = triplets.header["counts"][split], triplets.header["image_size"]
    side //= 2 ** (len(prior.vae.config.block_out_channels) - 1)
    label = fingerprint({"dataset": triplets.fingerprint, "model": model, "split": split, "mirrored": mirrored})[:16]
    return RowCache(
        triplets.folder / ".cache" / f"latents-{label}",
        (2 * prior.vae.config.latent_channels, side, side),
        total,
        f"latents {split}{' mirrored' if mirrored else ''}",
    )


def latent_moments(
    triplets: Triplets, split: str, count: int, prior: Prior, model: str, mirrored: bool = False
) -> NDArray[np.float16]:
    """Posterior mean and standard deviation of each image, (count, 2C, h, w) float16, unscaled, memory-mapped.

    Encoded once for (dataset, model) and kept in the dataset's ``.cache``; 64 KiB an image for SD 1.5 at 512 px.
    ``mirrored``: of the images turned left to right, which are not the mirrored latents.
    """

    def make(first: int, end: int) -> NDArray[np.float32]:
        rows = triplets.rows(split, ["image"], first, end)["image"].to_pylist()
        images = np.stack([decode_image(row["bytes"]) for row in rows])
        if mirrored:
            images = images[:, :, ::-1]
        return np.concatenate(
            [_moments(prior, images[i : i + ENCODE_BATCH]) for i in range(0, len(rows), ENCODE_BATCH)]
        )

    return latent_cache(triplets, split, prior, model, mirrored).rows(count, make)


def text_states(triplets: Triplets, split: str, count: int, prior: Prior, model: str) -> NDArray[np.float16]:
    """`Prior.encode_text` of each caption, (count, width) float16, memory-mapped; 116 KiB a caption for SD 1.5."""
    total = triplets.header["counts"][split]
    label = fingerprint({"dataset": triplets.fingerprint, "model": model, "split": split})[:16]
    cache = RowCache(triplets.folder / ".cache" / f"text-{label}", (prior.text_width,), total, f"captions {split}")

    def make(first: int, end: int) -> NDArray[np.float32]:
        texts = triplets.rows(split, ["text"], first, end)["text"].to_pylist()
        device = prior.text_encoders[0].device
        parts = [prior.tokenize(texts[i : i + ENCODE_BATCH]) for i in range(0, len(texts), ENCODE_BATCH)]
        return np.concatenate([prior.encode_text(ids.to(device)).float().cpu().numpy() for ids in parts])

    return cache.rows(count, make)


@dataclass(frozen=True)
class Items:
    """Random access to N samples of a split, in rank order."""

    moments: NDArray[np.float16]  # (N, 2C, h, w)
    maps: pa.Array  # N encoded pictures
    ids: Tensor  # (N, T, L) int64 token ids, T the number of text encoders
    empty: Tensor  # (T, L) ids of ""
    mirrored: NDArray[np.float16] | None = None  # as moments, of the mirrored images
    flippable: NDArray[np.bool_] | None = None  # (N,): the caption does not tell left from right
    states: NDArray[np.float16] | None = None  # (N, width) text states, where they are cached
    empty_states: Tensor | None = None  # (width,)

    def __len__(self) -> int:
        return len(self.maps)

    def take(self, rows: list[int], dropped: Tensor | None = None, flips: Tensor | None = None) -> dict[str, Tensor]:
        """``moments`` (B, 2C, h, w), ``hint`` (B, 3, H, W) in [0, 1], and ``ids`` (B, T, L) or ``text`` (B, width).

        ``dropped`` (B,) bool: samples whose caption becomes ""; ``flips`` (B,) bool: samples to be mirrored.
        """
        drop = torch.zeros(len(rows), dtype=torch.bool) if dropped is None else dropped
        turned = [bool(flips is not None and flips[i] and self._may_flip(row)) for i, row in enumerate(rows)]
        moments = [self._source(turn)[row].astype(np.float32) for row, turn in zip(rows, turned, strict=True)]
        hints = [map_tensor(self.maps[row].as_py()) for row in rows]
        batch = {
            "moments": torch.from_numpy(np.stack(moments)),
            "hint": torch.stack([h.flip(-1) if turn else h for h, turn in zip(hints, turned, strict=True)]),
        }
        if self.states is None:
            return {**batch, "ids": torch.where(drop[:, None, None], self.empty, self.ids[rows])}
        assert self.empty_states is not None
        text = torch.from_numpy(self.states[rows].astype(np.float32))
        return {**batch, "text": torch.where(drop[:, None], self.empty_states, text)}

    def _may_flip(self, row: int) -> bool:
        return self.flippable is not None and bool(self.flippable[row])

    def _source(self, turned: bool) -> NDArray[np.float16]:
        if not turned:
            return self.moments
        assert self.mirrored is not None
        return self.mirrored


def flip_safe(condition: str) -> bool:
    """Whether a mirrored map of this condition is the map of the mirrored image (not so for normals and poses)."""
    return condition not in FLIP_UNSAFE


def load_items(
    triplets: Triplets,
    split: str,
    count: int | None,
    prior: Prior,
    model: str,
    *,
    flip: bool = False,
    text_cache: bool = False,
) -> Items:
    """The first ``count`` samples of a split, ready to train on. Maps stay encoded in memory (2 KB for edges)."""
    table = triplets.table(split, ["conditioning_image", "text"], count)
    texts = table["text"].to_pylist()
    n = len(texts)
    further: dict[str, Any] = {}
    if flip:
        further["mirrored"] = latent_moments(triplets, split, n, prior, model, mirrored=True)
        further["flippable"] = np.array([SIDES.search(text) is None for text in texts])
    empty = prior.tokenize([""])
    if text_cache:
        further["states"] = text_states(triplets, split, n, prior, model)
        device = prior.text_encoders[0].device
        further["empty_states"] = prior.encode_text(empty.to(device))[0].half().float().cpu()
    moments = latent_moments(triplets, split, n, prior, model)
    return Items(moments, _bytes_of(table, "conditioning_image"), prior.tokenize(texts), empty[0], **further)


def step_generator(seed: int, step: int) -> torch.Generator:
    """All randomness of one step, drawn on the CPU so that it is the same on every device."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)


@dataclass(frozen=True)
class Draw:
    """How a step's randomness is drawn."""

    batch: int  # images a step
    seed: int
    timesteps: int  # of the noise schedule
    prompt_drop: float = 0.0
    flip: bool = False


@dataclass(frozen=True)
class Batches(Dataset[list[dict[str, Tensor]]]):
    """Step -> its micro-batches on this rank, with noise, timesteps, dropped prompts and flips drawn.

    The draws are made for the whole batch and then shared out, so what a step computes depends neither on the number
    of devices nor on the number of micro-batches.
    """

    items: Items
    draw: Draw
    accumulate: int = 1
    rank: int = 0
    world: int = 1

    def __getitem__(self, step: int) -> list[dict[str, Tensor]]:
        """Each micro-batch: `Items.take`, and ``posterior`` and ``noise`` (B, C, h, w), ``t`` (B,) int64."""
        draw, generator = self.draw, step_generator(self.draw.seed, step)
        rows = next(iter(Order(len(self.items), draw.batch, draw.seed, step, step + 1)))
        channels, *size = self.items.moments.shape[1:]
        posterior, noise = (torch.randn((draw.batch, channels // 2, *size), generator=generator) for _ in range(2))
        t = torch.randint(draw.timesteps, (draw.batch,), generator=generator)
        dropped = torch.rand(draw.batch, generator=generator) < draw.prompt_drop
        flips = torch.rand(draw.batch, generator=generator) < (0.5 if draw.flip else 0.0)
        share = draw.batch // (self.world * self.accumulate)
        parts = []
        for micro in range(self.accumulate):
            first = (micro * self.world + self.rank) * share
            own = slice(first, first + share)
            taken = self.items.take(rows[own], dropped[own], flips[own])
            parts.append({**taken, "posterior": posterior[own], "noise": noise[own], "t": t[own]})
        return parts


class Order(Sampler[list[int]]):
    """Batches of a seeded permutation per epoch, from any step on: step k sees the same samples in every run."""

    def __init__(self, count: int, batch: int, seed: int, start: int, stop: int) -> None:
        self.count, self.batch, self.seed, self.start, self.stop = count, batch, seed, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.stop):
            places = (divmod(i, self.count) for i in range(step * self.batch, (step + 1) * self.batch))
            yield [int(_epoch_order(self.count, self.seed, epoch)[place]) for epoch, place in places]


@lru_cache(maxsize=4)
def _epoch_order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)
