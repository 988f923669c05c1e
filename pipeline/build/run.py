"""The build: one command from a source to a finished, sealed dataset, or on from where an earlier one was stopped."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.build.blocks import hash_images
from pipeline.build.finish import seal
from pipeline.build.pool import Pool, open_pool, stream
from pipeline.build.sample import SampleBuilder
from pipeline.build.schedule import Ledger, NothingTakenError, Schedule, cut
from pipeline.build.split import ranked
from pipeline.config import BuildPlan, DatasetConfig
from pipeline.contract.dataset import BEFORE, CLAIM, HEADER, LEDGER, REJECTS
from pipeline.contract.errors import CnlabError
from pipeline.contract.files import LOCK, lock_folder, read_json, remove_parts, write_json
from pipeline.contract.identity import check_fingerprint, fingerprint
from pipeline.contract.names import RENDERED
from pipeline.screen.duplicates import Index
from pipeline.sources import Source, open_source
from pipeline.sources.files import is_depth

CHUNK = 256  # images a task when a foreign set is hashed


def _add_outside(pool: Pool, plan: BuildPlan, index: Index) -> None:
    """Let ``index`` know the images of the set to decontaminate against."""
    keys = sorted(open_source(plan.decontaminate, plan.seed, plan.image_size).keys())
    chunks = [(plan.decontaminate, plan, tuple(keys[i : i + CHUNK])) for i in range(0, len(keys), CHUNK)]
    with tqdm(total=len(keys), desc="outside", unit="img", mininterval=1) as bar:
        for signatures in stream(pool, hash_images, chunks):
            for signature in signatures:
                index.add(signature, "outside")
            bar.update(min(CHUNK, len(keys) - int(bar.n)))


def source_identity(plan: BuildPlan, source: Source | None = None) -> tuple[dict[str, Any], str]:
    """Everything that decides the set's content, sources included, and its fingerprint.

    ``source`` is the plan's own, where it is already open.
    """
    outside = ""
    if plan.decontaminate:
        outside = open_source(plan.decontaminate, plan.seed, plan.image_size).fingerprint()
    source = source or open_source(plan.source, plan.seed, plan.image_size, None, plan.read)
    identity = plan.identity(source.fingerprint(), outside)
    return identity, fingerprint(identity)


def build(config: DatasetConfig) -> dict[str, Any]:
    """Build (or finish, or find) the dataset of ``config``; returns its header, the content of dataset.json."""
    plan = config.resolve()
    folder, builder = plan.folder, SampleBuilder(plan)
    identity, sha256 = source_identity(plan, builder.source)
    with lock_folder(folder):
        if check_fingerprint(folder / HEADER, sha256, identity):
            print(f"{folder} is complete")
            header: dict[str, Any] = read_json(folder / HEADER)
            return header
        _claim(config, sha256, identity)
        with _cleared(folder):
            return _build(plan, identity, sha256, builder)


def _build(plan: BuildPlan, identity: dict[str, Any], sha256: str, builder: SampleBuilder) -> dict[str, Any]:
    """Build in a folder that is locked and claimed."""
    builder.prepare()
    keys = ranked(builder.source.keys(), plan.eval_share)
    splits = [
        cut("eval", keys["eval"], plan.eval_size, plan.block),
        cut("train", keys["train"], plan.size, plan.block),
    ]
    print(f"{plan.folder}: {plan.size} train + {plan.eval_size} eval samples", flush=True)
    notes = (*builder.source.notes, *_map_notes(plan, builder.source))
    for note in notes:
        print(f"source: {note}", flush=True)
    with open_pool(plan) as pool:
        limits = plan.limits
        index = Index(int(limits["duplicate_bits"]), int(limits["mirror_bits"]), limits["min_crop_fit"])
        schedule = Schedule(plan, sha256, pool, Ledger(plan.folder / LEDGER), index)
        if plan.decontaminate:
            _add_outside(pool, plan, index)
        return seal(plan, identity, sha256, schedule.run(splits), pool, notes)


@contextlib.contextmanager
def _cleared(folder: Path) -> Iterator[None]:
    """A build that fails and leaves nothing of use leaves nothing at all, so that a mended command needs no other name.

    That is so where no shard is finished, and where all candidates were judged and a split stayed empty.
    """
    try:
        yield
    except Exception as error:
        shards = [*folder.glob("train-*.parquet"), *folder.glob("eval-*.parquet")]
        if (isinstance(error, NothingTakenError) or not shards) and not (folder / BEFORE).exists():
            remove_parts(folder)
            for path in (*shards, *(folder / name for name in (REJECTS, CLAIM, LEDGER, LOCK))):
                path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # somebody else's files stay, and their folder
                folder.rmdir()
        raise


def _map_notes(plan: BuildPlan, source: Source) -> list[str]:
    """How given depth is read, and a line where the source has maps and other ones were asked for."""
    if plan.kind in RENDERED or not source.own_maps:
        return []
    if used := set(source.own_maps) & set(plan.condition):
        near = plan.read.depth_near
        other = "black" if near == "white" else "white"
        return [
            f"near is taken to be {near} in its maps for {name}; --depth-near {other} if it is {other}"
            for name in sorted(used)
            if is_depth(name) and plan.read.map_scale != "inverse"
        ]
    return [
        f"its own maps ({', '.join(source.own_maps)}) are not used, {', '.join(plan.condition)} is made from images; "
        f"--condition {source.own_maps[0]} takes them"
    ]


def _claim(config: DatasetConfig, sha256: str, identity: dict[str, Any]) -> None:
    """Refuse a folder that holds another configuration's unfinished shards; else mark it as this one's.

    The claim stays when the set is finished: `verify` takes the build's options from it to repair damage.
    """
    claim = config.folder / CLAIM
    begun = any(config.folder.glob("*.parquet"))  # a claim without shards protects nothing
    if not (begun and check_fingerprint(claim, sha256, identity)):
        if begun:
            raise CnlabError(
                f"{config.folder} holds shards of an unknown build; choose another NAME or delete that folder"
            )
        (config.folder / LEDGER).unlink(missing_ok=True)
        options = dataclasses.asdict(config.explicit())
        write_json(claim, {"fingerprint": sha256, "config": identity, "options": options})
    remove_parts(config.folder)
