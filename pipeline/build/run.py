"""The build: one command from a source to a finished, sealed dataset, or on from where an earlier one was stopped."""

from __future__ import annotations

import dataclasses
from typing import Any

from tqdm import tqdm

from pipeline.build.blocks import hash_images
from pipeline.build.finish import seal
from pipeline.build.pool import Pool, open_pool, stream
from pipeline.build.sample import SampleBuilder
from pipeline.build.schedule import Ledger, Schedule, cut
from pipeline.build.split import ranked
from pipeline.config import RENDERED, BuildPlan, DatasetConfig
from pipeline.contract.dataset import CLAIM, HEADER, LEDGER
from pipeline.contract.errors import CnlabError
from pipeline.contract.files import lock_folder, read_json, remove_parts, write_json
from pipeline.contract.identity import check_fingerprint, fingerprint
from pipeline.screen.duplicates import Index
from pipeline.sources import Source, open_source

CHUNK = 256  # images a task when a foreign set is hashed


def _add_outside(pool: Pool, plan: BuildPlan, index: Index) -> None:
    """Let ``index`` know the images of the set to decontaminate against."""
    keys = sorted(open_source(plan.decontaminate, plan.seed, plan.image_size).keys())
    chunks = [(plan.decontaminate, plan, tuple(keys[i : i + CHUNK])) for i in range(0, len(keys), CHUNK)]
    with tqdm(total=len(keys), desc="outside", unit="img", mininterval=1) as bar:
        for marks in stream(pool, hash_images, chunks):
            for mark in marks:
                index.add(mark, "outside")
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
        builder.prepare()
        _claim(config, sha256, identity)
        keys = ranked(builder.source.keys(), plan.eval_share)
        splits = [
            cut("eval", keys["eval"], plan.eval_size, plan.block),
            cut("train", keys["train"], plan.size, plan.block),
        ]
        print(f"{folder}: {plan.size} train + {plan.eval_size} eval samples", flush=True)
        notes = (*builder.source.notes, *_unused_maps(plan, builder.source))
        for note in notes:
            print(f"source: {note}", flush=True)
        with open_pool(plan) as pool:
            limits = plan.limits
            index = Index(int(limits["duplicate_bits"]), int(limits["mirror_bits"]), limits["min_crop_fit"])
            schedule = Schedule(plan, sha256, pool, Ledger(folder / LEDGER), index)
            if plan.decontaminate:
                _add_outside(pool, plan, index)
            return seal(plan, identity, sha256, schedule.run(splits), pool, notes)


def _unused_maps(plan: BuildPlan, source: Source) -> list[str]:
    """A line where the source has maps and other ones were asked for."""
    if plan.kind in RENDERED or not source.given or set(source.given) & set(plan.condition):
        return []
    return [
        f"its own maps ({', '.join(source.given)}) are not used, {', '.join(plan.condition)} is made from images; "
        f"--condition {source.given[0]} takes them"
    ]


def _claim(config: DatasetConfig, sha256: str, identity: dict[str, Any]) -> None:
    """Refuse a folder that holds another configuration's unfinished shards; else mark it as this one's.

    The claim stays when the set is finished: `verify` takes the build's options from it to repair damage.
    """
    claim = config.folder / CLAIM
    if not check_fingerprint(claim, sha256, identity):
        if any(config.folder.glob("*.parquet")):
            raise CnlabError(
                f"{config.folder} holds shards of an unknown build; choose another NAME or delete that folder"
            )
        options = dataclasses.asdict(config.explicit())
        write_json(claim, {"fingerprint": sha256, "config": identity, "options": options})
    remove_parts(config.folder)
