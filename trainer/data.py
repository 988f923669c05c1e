"""Training data as the loop wants it: cached latents, encoded maps, token ids, in an order that resumes anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from tqdm import tqdm

from pipeline.dataset import Triplets
from pipeline.io import atomic, fingerprint
from pipeline.shards import decode_image
from trainer.models import Prior


def to_model_range(images: NDArray[np.uint8]) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [-1, 1], what the autoencoder takes."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def map_tensor(png: bytes) -> Tensor:
    """PNG bytes -> (3, H, W) float32 in [0, 1], what ControlNet takes (unlike targets, which are in [-1, 1])."""
    return torch.from_numpy(decode_image(png)).permute(2, 0, 1).float() / 255


@torch.inference_mode()
def _encode(triplets: Triplets, split: str, count: int, prior: Prior, batch: int) -> NDArray[np.float16]:
    table = triplets.table(split, ["image"], count)
    device = prior.vae.device
    out = []
    for start in tqdm(range(0, count, batch), desc=f"latents {split}", unit="batch", mininterval=1):
        pngs = table["image"].slice(start, batch).to_pylist()
        pixels = to_model_range(np.stack([decode_image(p["bytes"]) for p in pngs])).to(device)
        posterior = prior.vae.encode(pixels).latent_dist
        out.append(torch.cat([posterior.mean, posterior.std], 1).cpu().half().numpy())
    return np.concatenate(out)


def latent_moments(
    triplets: Triplets, split: str, count: int, prior: Prior, model: str, batch: int = 32
) -> NDArray[np.float16]:
    """Posterior mean and standard deviation of each image, (count, 2C, h, w) float16, unscaled, memory-mapped.

    Encoded once for (dataset, model) and kept in the dataset's ``.cache``; 64 KiB an image for SD 1.5 at 512 px.
    """
    label = fingerprint({"dataset": triplets.fingerprint, "model": model, "split": split, "count": count})[:16]
    path = triplets.folder / ".cache" / f"latents-{label}.npy"
    if not path.exists():
        moments = _encode(triplets, split, count, prior, batch)
        with atomic(path) as temporary, temporary.open("wb") as handle:
            np.save(handle, moments)
    cached: NDArray[np.float16] = np.load(path, mmap_mode="r")
    return cached


@dataclass(frozen=True)
class Items(Dataset[dict[str, Tensor]]):
    """Random access to training items: ``moments`` (2C, h, w), ``hint`` (3, H, W) in [0, 1], ``ids`` (L,)."""

    moments: NDArray[np.float16]
    maps: list[bytes]
    ids: Tensor
    texts: list[str]

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {
            "moments": torch.from_numpy(np.array(self.moments[index], dtype=np.float32)),
            "hint": map_tensor(self.maps[index]),
            "ids": self.ids[index],
        }

    def stack(self, indices: list[int]) -> dict[str, Tensor]:
        """A batch of the given items."""
        items = [self[i] for i in indices]
        return {k: torch.stack([item[k] for item in items]) for k in items[0]}


def load_items(triplets: Triplets, split: str, count: int | None, prior: Prior, model: str) -> Items:
    """The first ``count`` samples of a split, ready to train on. Maps stay PNG-encoded in memory (2 KB for edges)."""
    table = triplets.table(split, ["conditioning_image", "text"], count)
    texts = table["text"].to_pylist()
    moments = latent_moments(triplets, split, len(texts), prior, model)
    return Items(moments, [m["bytes"] for m in table["conditioning_image"].to_pylist()], prior.tokenize(texts), texts)


class Order(Sampler[list[int]]):
    """Batches of a seeded permutation per epoch, from any step on: step k sees the same samples in every run."""

    def __init__(self, count: int, batch: int, seed: int, start: int, stop: int) -> None:
        self.count, self.batch, self.seed, self.start, self.stop = count, batch, seed, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[int]]:
        epoch, order = -1, np.empty(0, np.int64)
        for step in range(self.start, self.stop):
            picked = []
            for position in range(step * self.batch, (step + 1) * self.batch):
                if position // self.count != epoch:
                    epoch = position // self.count
                    order = np.random.default_rng([self.seed, epoch]).permutation(self.count)
                picked.append(int(order[position % self.count]))
            yield picked
