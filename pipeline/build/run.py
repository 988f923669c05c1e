"""The build: one command from a source to a finished, sealed dataset, or on from where an earlier one was stopped."""

from __future__ import annotations

import dataclasses
from typing import Any

from tqdm import tqdm

from pipeline.build.blocks import hash_images
from pipeline.build.finish import seal
from pipeline.build.pool import Pool, open_pool, prestart, stream
from pipeline.build.sample import Recipe
from pipeline.build.schedule import Job, Ledger, cut
from pipeline.build.split import ranked
from pipeline.config import RENDERED, DatasetConfig
from pipeline.contract.dataset import CLAIM, HEADER, LEDGER
from pipeline.contract.errors import CnlabError
from pipeline.contract.files import lock_folder, read_json, remove_parts, write_json
from pipeline.contract.identity import check_fingerprint, fingerprint
from pipeline.screen.duplicates import Index
from pipeline.sources import Source, open_source

CHUNK = 256  # images a task when a foreign set is hashed


def _add_outside(pool: Pool, config: DatasetConfig, index: Index) -> None:
    """Let ``index`` know the images of the set to decontaminate against."""
    keys = sorted(open_source(config.decontaminate, config.seed, config.image_size).keys())
    chunks = [(config.decontaminate, config, tuple(keys[i : i + CHUNK])) for i in range(0, len(keys), CHUNK)]
    with tqdm(total=len(keys), desc="outside", unit="img", mininterval=1) as bar:
        for marks in stream(pool, hash_images, chunks):
            for mark in marks:
                index.add(mark, "outside")
            bar.update(min(CHUNK, len(keys) - int(bar.n)))


def source_identity(config: DatasetConfig, source: Source | None = None) -> tuple[dict[str, Any], str]:
    """Everything that decides the set's content, sources included, and its fingerprint.

    ``source`` is the config's own, where it is already open.
    """
    outside = ""
    if config.decontaminate:
        outside = open_source(config.decontaminate, config.seed, config.image_size).fingerprint()
    source = source or open_source(config.source, config.seed, config.image_size, None, config.read)
    about = config.identity(source.fingerprint(), outside)
    return about, fingerprint(about)


def build(config: DatasetConfig) -> dict[str, Any]:
    """Build (or finish, or find) the dataset of ``config``; returns its header, the content of dataset.json."""
    if config.decontaminate and config.duplicates == "off":
        raise CnlabError("decontaminate needs duplicates on; give --duplicates on")
    folder = config.folder
    if not (folder / HEADER).exists():
        prestart(config)
    recipe = Recipe(config)
    about, identity = source_identity(config, recipe.source)
    with lock_folder(folder):
        if check_fingerprint(folder / HEADER, identity):
            print(f"{folder} is complete")
            header: dict[str, Any] = read_json(folder / HEADER)
            return header
        recipe.prepare()
        _claim(config, identity)
        keys = ranked(recipe.source.keys(), config.eval_share)
        splits = [
            cut("eval", keys["eval"], config.eval_size, config.block),
            cut("train", keys["train"], config.resolved_size, config.block),
        ]
        print(f"{folder}: {config.resolved_size} train + {config.eval_size} eval samples", flush=True)
        notes = (*recipe.source.notes, *_unused_maps(config, recipe.source))
        for note in notes:
            print(f"source: {note}", flush=True)
        with open_pool(config) as pool:
            limits = config.limits
            index = Index(int(limits["duplicate_bits"]), int(limits["mirror_bits"]), limits["min_crop_fit"])
            job = Job(config, identity, pool, Ledger(folder / LEDGER), index)
            if config.decontaminate:
                _add_outside(pool, config, job.index)
            return seal(config, about, identity, job.run(splits), pool, notes)


def _unused_maps(config: DatasetConfig, source: Source) -> list[str]:
    """A line where the source has maps and other ones were asked for."""
    if config.kind in RENDERED or not source.given or set(source.given) & set(config.condition):
        return []
    return [
        f"its own maps ({', '.join(source.given)}) are not used, {', '.join(config.condition)} is made from images; "
        f"--condition {source.given[0]} takes them"
    ]


def _claim(config: DatasetConfig, identity: str) -> None:
    """Refuse a folder that holds another configuration's unfinished shards; else mark it as this one's.

    The claim stays when the set is finished: `verify` takes the build's options from it to repair damage.
    """
    claim = config.folder / CLAIM
    if not check_fingerprint(claim, identity):
        if any(config.folder.glob("*.parquet")):
            raise CnlabError(
                f"{config.folder} holds shards of an unknown build; choose another NAME or delete that folder"
            )
        options = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.init}
        options["read"] = dataclasses.asdict(config.read)
        write_json(claim, {"fingerprint": identity, "options": options})
    remove_parts(config.folder)
