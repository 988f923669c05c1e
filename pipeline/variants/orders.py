"""In which order a selection takes samples: by rank, by a figure, or evenly from clusters of alike pictures."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.contract.dataset import Triplets, read_columns
from pipeline.contract.errors import CnlabError
from pipeline.contract.pictures import Picture, decode_image

RANK, CLUSTERS = "rank", "clusters"
CELLS = 8  # a side, of the small pictures that are clustered where no CLIP model is given
MOST_CLUSTERS, LEAST_MEMBERS = 256, 8  # clusters at most; samples of a cluster on average at least
SEED, ROUNDS = 0, 30  # of k-means


def order_of(triplets: Triplets, selection: str, clip: str = "") -> NDArray[np.intp]:
    """Every training sample's place in the set, in the order in which ``selection`` takes them.

    A function of the set alone and not of how many are taken, so selections of different size are nested.

    Parameters
    ----------
    triplets
        The set.
    selection
        ``rank``, ``clusters``, or ``FIGURE:desc`` or ``FIGURE:asc`` for a column of numbers.
    clip
        Folder or hub name of a CLIP model whose embeddings are clustered; empty: small pictures are.
    """
    if selection == RANK:
        return np.arange(triplets.count("train"))
    if selection == CLUSTERS:
        features = np.concatenate(list(_features(triplets, clip)))
        return by_clusters(features)
    name, _, direction = selection.partition(":")
    shards = triplets.header["shards"]
    schema = pq.read_schema(triplets.folder / next(s["file"] for s in shards if s["split"] == "train"))
    numbers = [f.name for f in schema if pa.types.is_floating(f.type) or pa.types.is_integer(f.type)]
    if name not in numbers or direction not in ("asc", "desc"):
        raise CnlabError(
            f"select {selection!r} must be {RANK}, {CLUSTERS}, or FIGURE:desc or FIGURE:asc with one of "
            f"{', '.join(n for n in numbers if n != 'rank')}"
        )
    column = read_columns(triplets.folder, shards, "train", [name])[name]
    if column.null_count:
        raise CnlabError(
            f"{column.null_count} training samples have no {name}; it needs --weights when the set is built"
        )
    values = column.to_numpy().astype(np.float64)
    return np.argsort(-values if direction == "desc" else values, kind="stable")


def by_clusters(features: NDArray[np.float32]) -> NDArray[np.intp]:
    """One sample of each cluster, then a second of each ...; within a cluster, and between clusters, in rank order.

    (N, D) float32 -> (N,) places. Clusters by k-means (k-means++, a fixed seed), at most 256, of 8 samples on average.
    """
    from scipy.cluster.vq import kmeans2

    count = len(features)
    clusters = max(1, min(MOST_CLUSTERS, count // LEAST_MEMBERS))
    _, labels = kmeans2(features, clusters, iter=ROUNDS, minit="++", seed=SEED, missing="warn")
    turn, members = np.empty(count, np.intp), np.zeros(clusters, np.intp)
    for at, label in enumerate(labels):
        turn[at] = members[label]
        members[label] += 1
    return np.argsort(turn, kind="stable")


def _features(triplets: Triplets, clip: str) -> Iterator[NDArray[np.float32]]:
    """Of each shard's pictures: (n, D) float32."""
    if clip:
        from pipeline.contract.clip import load_clip
        from pipeline.contract.models import pick_device

        judge = load_clip(clip, pick_device())
    files = [s["file"] for s in triplets.header["shards"] if s["split"] == "train"]
    for file in tqdm(files, desc="features", unit="shard", mininterval=1):
        with pq.ParquetFile(triplets.folder / file) as shard:
            for batch in shard.iter_batches(64, columns=["image"]):
                pictures = [decode_image(row["image"]["bytes"]) for row in batch.to_pylist()]
                if clip:
                    embedded = np.asarray(judge.images(pictures), np.float32)
                    yield embedded / np.linalg.norm(embedded, axis=1, keepdims=True)
                else:
                    yield np.stack([small_picture(picture) for picture in pictures])


def small_picture(image: Picture) -> NDArray[np.float32]:
    """(S, S, 3) uint8 -> (256,) float32: CIE Lab and the strength of edges on 8 x 8 cells, of about one scale."""
    lab = cv2.cvtColor(
        cv2.resize(image, (CELLS, CELLS), interpolation=cv2.INTER_AREA).astype(np.float32) / 255, cv2.COLOR_RGB2LAB
    )
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    edges = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    cells = cv2.resize(edges, (CELLS, CELLS), interpolation=cv2.INTER_AREA)
    return np.concatenate([lab.ravel() / 25, np.log1p(cells).ravel()]).astype(np.float32)
