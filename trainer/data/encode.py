"""Latents and text states of a dataset, computed once for a model and cached."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.contract.dataset import Triplets
from pipeline.contract.identity import fingerprint
from pipeline.contract.pictures import decode_image
from trainer.data.cache import RowCache, cache_folder
from trainer.nets.models import Prior
from trainer.parallel import ALONE, Ranks

#: Images that pass the autoencoder together, in fp32 (SDXL's overflows in fp16). Every pass has this many, the last
#: filled up, so that cached bits depend neither on a run's options nor on which rows it asks for; 512 px cost 2.5 GiB.
ENCODE_BATCH = 4
PRECISION = "fp32"  # of the encoders; with ENCODE_BATCH part of the cache's identity


def subset_order(triplets: Triplets, split: str, seed: int, count: int | None = None) -> NDArray[np.int64]:
    """Row numbers of the first ``count`` samples (all by default) in the order of ``seed``.

    0 is the dataset's own order, by rank. S orders by sha256("order", S, key), so that every seed has its own nested
    subsets. Raises CnlabError when there are fewer.
    """
    total = len(triplets.table(split, ["key"], count)) if seed == 0 else triplets.count(split)
    if seed == 0:
        return np.arange(total, dtype=np.int64)
    triplets.table(split, ["key"], count)  # refuses too large a count
    keys = triplets.table(split, ["key"])["key"].to_pylist()
    hashes = [hashlib.sha256(f"order\0{seed}\0{key}".encode()).digest() for key in keys]
    order = np.array(sorted(range(total), key=lambda i: hashes[i]), dtype=np.int64)
    return order[:count]


def to_model_range(images: NDArray[np.uint8]) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [-1, 1], what the autoencoder takes."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


@contextlib.contextmanager
def on_device(module: nn.Module, device: torch.device) -> Iterator[None]:
    """With ``module`` on ``device``; afterwards it is where it was."""
    before = next(module.parameters()).device
    module.to(device)
    try:
        yield
    finally:
        if before != device:
            module.to(before)


@torch.inference_mode()
def encode_images(prior: Prior, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, H, W, 3) uint8 -> posterior mean and deviation (N, 2C, h, w), unscaled."""
    parts = []
    for first in range(0, len(images), ENCODE_BATCH):
        own = images[first : first + ENCODE_BATCH]
        filled = np.concatenate([own, np.repeat(own[-1:], ENCODE_BATCH - len(own), axis=0)])
        posterior = prior.vae.encode(to_model_range(filled).to(prior.vae.device)).latent_dist
        parts.append(torch.cat([posterior.mean, posterior.std], 1)[: len(own)].cpu().numpy())
    return np.concatenate(parts)


def latent_cache(triplets: Triplets, split: str, prior: Prior, model: str, mirrored: bool = False) -> RowCache:
    """Where `latent_moments` stores what it computes."""
    total, side = triplets.header["counts"][split], triplets.header["image_size"]
    side //= 2 ** (len(prior.vae.config.block_out_channels) - 1)
    identity = {"dataset": triplets.fingerprint, "model": model, "split": split, "mirrored": mirrored}
    label = fingerprint({**identity, "batch": ENCODE_BATCH, "precision": PRECISION})[:16]
    return RowCache(
        cache_folder(triplets.folder, triplets.fingerprint) / f"latents-{label}",
        (2 * prior.vae.config.latent_channels, side, side),
        total,
        f"latents {split}{' mirrored' if mirrored else ''}",
        triplets.fingerprint,
    )


def latent_moments(
    triplets: Triplets,
    split: str,
    rows: NDArray[np.int64],
    prior: Prior,
    model: str,
    mirrored: bool = False,
    device: torch.device | None = None,
    ranks: Ranks = ALONE,
) -> NDArray[np.float16]:
    """Posterior mean and standard deviation of the images, (total, 2C, h, w) float16, unscaled, memory-mapped.

    Those of ``rows`` are there. Encoded once for (dataset, model); 64 KiB an image for SD 1.5 at 512 px. ``mirrored``:
    of the images turned left to right, which are not the mirrored latents. ``device``: where the autoencoder works, if
    not where it is.
    """

    def compute(numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        images = np.stack([decode_image(row["bytes"]) for row in rows_of(triplets, split, "image", numbers)])
        with on_device(prior.vae, device or prior.vae.device):
            return encode_images(prior, images[:, :, ::-1] if mirrored else images)

    return latent_cache(triplets, split, prior, model, mirrored).rows(rows, compute, ranks)


def rows_of(triplets: Triplets, split: str, column: str, numbers: NDArray[np.int64]) -> list[Any]:
    """Values of a column at ascending row numbers; shards in between that hold none of them are not read."""
    values: list[Any] = []
    breaks = np.flatnonzero(np.diff(numbers) > 64) + 1  # nearby rows are cheaper read than skipped
    for part in np.split(numbers, breaks):
        table = triplets.rows(split, [column], int(part[0]), int(part[-1]) + 1)
        values += table.take(part - part[0])[column].to_pylist()
    return values
