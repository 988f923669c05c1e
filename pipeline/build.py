"""The build: Dask over blocks of candidates in rank order, until the wanted number is accepted."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.conditions import get_condition
from pipeline.conditions.base import sample_rng
from pipeline.config import FORMAT, DatasetConfig
from pipeline.io import (
    CnlabError,
    atomic,
    check_fingerprint,
    code_version,
    lock_folder,
    read_json,
    sha256_file,
    write_json,
)
from pipeline.screen import quality, screen_map, screen_sample
from pipeline.shards import encode_png, read_rejects, write_shard
from pipeline.sources import Rejected, Source, open_source
from pipeline.split import ranked

HEADER = "dataset.json"


@dataclass(frozen=True)
class Block:
    """One task: candidates ``first ... first + len(keys)`` of a split."""

    split: str
    number: int
    first: int
    keys: tuple[str, ...]

    @property
    def file(self) -> str:
        """Its shard's name."""
        return f"{self.split}-{self.number:05d}.parquet"


def make_row(source: Source, key: str, config: DatasetConfig) -> dict[str, Any]:
    """Load, screen and map one candidate; raises `Rejected`."""
    sample = source.load(key)
    screen_sample(sample, config)
    brightness, sharpness = quality(sample.image)
    row: dict[str, Any] = {"image": {"bytes": encode_png(sample.image), "path": None}, "text": sample.text, "key": key}
    for name in config.condition:
        condition = get_condition(name, source.given)
        params = condition.draw(sample_rng(config.seed, name, key))
        made = sample.maps[name] if name in sample.maps else condition.extract(sample.image, params)
        if condition.binary:
            screen_map(made, config)
        row[name] = {"bytes": encode_png(made, condition.binary), "path": None}
        row[f"{name}_params"] = json.dumps(params, sort_keys=True)
    return {
        **row,
        "conditioning_image": row[config.condition[0]],
        "source": config.source.partition(":")[0],
        "caption_source": sample.caption_source,
        "width": sample.width,
        "height": sample.height,
        "brightness": brightness,
        "sharpness": sharpness,
    }


def build_block(block: Block, config: DatasetConfig, identity: str) -> tuple[Block, int, list[Any]]:
    """The Dask task: write one shard, return (block, accepted rows, rejects). A finished shard is kept."""
    path = config.folder / block.file
    if (found := read_rejects(path, (identity, block.file))) is not None:
        return block, *found
    source = open_source(config.source, config.seed, config.image_size)
    rows: list[dict[str, Any]] = []
    rejects = []
    for rank, key in enumerate(block.keys, block.first):
        try:
            rows.append({**make_row(source, key, config), "rank": rank, "split": block.split})
        except Rejected as error:
            rejects.append(
                {"key": key, "rank": rank, "split": block.split, "reason": error.reason, "detail": error.detail}
            )
    write_shard(path, rows, config.condition, (identity, block.file), rejects)
    return block, len(rows), rejects


Done = tuple[Block, int, list[Any]]
Runner = Callable[[list[Block]], Iterator[Done]]


@contextlib.contextmanager
def block_runner(config: DatasetConfig, identity: str) -> Iterator[Runner]:
    """Something that builds a list of blocks and yields each as it is finished: Dask, or this process for 0 workers."""
    if not config.workers and not config.scheduler:
        yield lambda blocks: (build_block(b, config, identity) for b in blocks)
        return
    with dask_client(config) as client:
        print(f"Dask dashboard: {client.dashboard_link}")

        def run(blocks: list[Block]) -> Iterator[Done]:
            from distributed import as_completed

            futures = [client.submit(build_block, b, config, identity, pure=False) for b in blocks]
            yield from (done for _, done in as_completed(futures, with_results=True))

        yield run


@contextlib.contextmanager
def dask_client(config: DatasetConfig) -> Iterator[Any]:
    """A client of the given scheduler, or of a local cluster of ``workers`` single-threaded processes."""
    import dask
    from distributed import Client, LocalCluster

    if config.scheduler:
        try:
            with Client(config.scheduler, timeout="10s") as client:
                yield client
        except (OSError, TimeoutError) as error:
            raise CnlabError(f"no Dask scheduler answers at {config.scheduler}: {error}") from error
        return
    quiet = {"distributed.worker.daemon": True, "distributed.admin.system-monitor.gil.enabled": False}
    with (
        dask.config.set(quiet),
        LocalCluster(
            n_workers=config.workers, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=40
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _blocks(split: str, keys: list[str], size: int) -> list[Block]:
    starts = range(0, len(keys), size)
    return [Block(split, n, first, tuple(keys[first : first + size])) for n, first in enumerate(starts)]


def _fill_split(
    run: Runner, config: DatasetConfig, identity: str, split: str, keys: list[str], wanted: int
) -> tuple[list[tuple[Block, int]], list[Any]]:
    """Build blocks in rank order until ``wanted`` rows are accepted or the candidates run out."""
    blocks = _blocks(split, keys, min(config.block, wanted))
    done: dict[int, Done] = {}
    total = min(wanted, len(keys))
    with tqdm(total=total, desc=f"{split:5s}", unit="img", mininterval=1) as bar:
        while sum(rows for _, rows, _ in done.values()) < wanted and len(done) < len(blocks):
            missing = wanted - sum(rows for _, rows, _ in done.values())
            wave = blocks[len(done) : len(done) + math.ceil(missing / len(blocks[0].keys))]
            for block, rows, rejects in run(wave):
                done[block.number] = (block, rows, rejects)
                bar.update(min(rows, total - bar.n))
    taken: list[tuple[Block, int]] = []
    rejected: list[Any] = []
    for number in sorted(done):
        block, rows, rejects = done[number]
        room = wanted - sum(n for _, n in taken)
        taken.append((block, min(rows, room)))
        rejected += rejects if rows <= room else []
        if rows > room:
            rejected += trim_shard(config, identity, block, room, rejects)
    return [(b, n) for b, n in taken if n], rejected


def trim_shard(config: DatasetConfig, identity: str, block: Block, rows: int, rejects: list[Any]) -> list[Any]:
    """Cut a shard to its first ``rows`` rows, and its rejects to those that come before the cut; returns these."""
    import pyarrow.parquet as pq

    path = config.folder / block.file
    table = pq.read_table(path).slice(0, rows)
    last = table["rank"][-1].as_py() if rows else -1
    kept = [r for r in rejects if r["rank"] < last]
    write_shard(path, table.to_pylist(), config.condition, (identity, block.file), kept)
    return kept


def _write_rejects(path: Path, rejects: list[Any]) -> dict[str, int]:
    import pandas as pd

    columns = ["key", "rank", "split", "reason", "detail"]
    frame = pd.DataFrame(rejects, columns=columns).astype({"rank": "int64"})
    with atomic(path) as temporary:
        frame.to_parquet(temporary, index=False)
    return {str(k): int(v) for k, v in frame["reason"].value_counts().sort_index().items()}


def build(config: DatasetConfig) -> dict[str, Any]:
    """Build (or finish, or find) the dataset of ``config``; returns its header, the content of dataset.json."""
    source = open_source(config.source, config.seed, config.image_size)
    for name in config.condition:
        get_condition(name, source.given)
    source_fingerprint = source.fingerprint()
    identity = config.fingerprint(source_fingerprint)
    folder = config.folder
    with lock_folder(folder):
        if check_fingerprint(folder / HEADER, identity):
            print(f"{folder} is complete")
            header: dict[str, Any] = read_json(folder / HEADER)
            return header
        _claim(folder, identity)
        splits = ranked(source.keys(), config.eval_share)
        print(f"{folder}: {config.resolved_size} train + {config.eval_size} eval samples")
        with block_runner(config, identity) as run:
            parts = {
                name: _fill_split(run, config, identity, name, splits[name], wanted)
                for name, wanted in (("eval", config.eval_size), ("train", config.resolved_size))
            }
        return _seal(config, source_fingerprint, parts)


def _claim(folder: Path, identity: str) -> None:
    """Refuse a folder that holds another configuration's unfinished shards; else mark it as this one's."""
    claim = folder / ".building.json"
    if not check_fingerprint(claim, identity):
        if any(folder.glob("*.parquet")):
            raise CnlabError(f"{folder} holds shards of an unknown build; choose another NAME or delete that folder")
        write_json(claim, {"fingerprint": identity})


def _seal(config: DatasetConfig, source_fingerprint: str, parts: dict[str, Any]) -> dict[str, Any]:
    """Check the counts, write rejects, contact sheet and card, and the header last."""
    from pipeline.card import write_card
    from pipeline.contact import write_contact

    folder = config.folder
    counts = {name: sum(n for _, n in taken) for name, (taken, _) in parts.items()}
    reasons = _write_rejects(folder / "rejects.parquet", [r for name in parts for r in parts[name][1]])
    if not counts["train"] or not counts["eval"]:
        said = ", ".join(f"{k} {v}" for k, v in reasons.items()) or "none rejected"
        raise CnlabError(
            f"{folder}: {counts['train']} train and {counts['eval']} eval samples are left ({said}); "
            "both must have some: add images, raise --eval-share or relax the thresholds"
        )
    for name, wanted in (("train", config.resolved_size), ("eval", config.eval_size)):
        if counts[name] < wanted:
            print(f"note: {name} has {counts[name]} samples, {wanted} were asked for; the source has no more")
    shards = [
        {"file": b.file, "split": b.split, "rows": n, "sha256": sha256_file(folder / b.file)}
        for name in ("train", "eval")
        for b, n in parts[name][0]
    ]
    used = {s["file"] for s in shards} | {"rejects.parquet"}
    for stray in folder.glob("*.parquet"):  # blocks of a killed run that turned out not to be needed
        if stray.name not in used:
            stray.unlink()
    header = {
        "format": FORMAT,
        "name": folder.name,
        "config": config.identity(source_fingerprint),
        "fingerprint": config.fingerprint(source_fingerprint),
        **code_version(),
        "counts": counts,
        "conditions": list(config.condition),
        "image_size": config.image_size,
        "rejects": reasons,
        "shards": shards,
        "tool_versions": _tool_versions(),
    }
    write_contact(folder, shards, config.condition)
    write_card(folder, header)
    write_json(folder / HEADER, header)
    (folder / ".building.json").unlink(missing_ok=True)
    return header


def _tool_versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("numpy", "pillow", "opencv-python-headless", "pyarrow", "controlnet-aux")}


__all__ = ["HEADER", "Block", "build", "build_block", "make_row"]
