"""Closing a build: counts, rejects, contact sheet, card, and the header last."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.build.pool import Pool
from pipeline.build.schedule import NothingTakenError
from pipeline.config import BuildPlan
from pipeline.contract.dataset import FORMAT, HEADER, REJECT_COLUMNS, REJECTS, Shard, read_columns, shards_fingerprint
from pipeline.contract.files import atomic, write_json
from pipeline.contract.identity import code_version, sha256_file
from pipeline.screen.checks import advice


def write_rejects(folder: Path, shards: list[Shard]) -> dict[str, int]:
    """Gather the rejects of all blocks into rejects.parquet, block by block; returns the count of each reason."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipeline.build.shards import read_rejects
    from pipeline.contract.schema import IMAGE, hub_schema

    kinds: dict[str, Any] = dict.fromkeys(REJECT_COLUMNS, pa.string())
    schema = hub_schema({**kinds, "rank": pa.int64(), "thumbnail": IMAGE})
    counts: dict[str, int] = {}
    with atomic(folder / REJECTS) as temporary, pq.ParquetWriter(temporary, schema) as out:
        for shard in shards:
            rejects: list[dict[str, Any]] = [
                {n: r.get(n) for n in REJECT_COLUMNS} for r in read_rejects(folder / shard.file)
            ]
            for reject in rejects:
                reject["figures"] = reject["figures"] and json.dumps(reject["figures"], sort_keys=True)
                counts[reject["reason"]] = counts.get(reject["reason"], 0) + 1
                reject["thumbnail"] = reject["thumbnail"] and {"bytes": reject["thumbnail"], "path": None}
            if rejects:
                out.write_table(pa.Table.from_pylist(rejects, schema=schema))
    return dict(sorted(counts.items()))


def seal(
    plan: BuildPlan,
    identity: dict[str, Any],
    fingerprint: str,
    shards: list[Shard],
    pool: Pool,
    notes: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Check the counts, write rejects, contact sheet and card, and the header last."""
    folder = plan.folder
    counts = {name: sum(s.rows for s in shards if s.split == name) for name in ("train", "eval")}
    pool.submit(write_rejects, folder, shards)
    reasons: dict[str, int] = pool.result()
    _check_counts(plan, counts, reasons)
    files = [dataclasses.asdict(s) for s in sorted(shards, key=lambda s: (s.split != "train", s.file)) if s.rows]
    used = {s["file"] for s in files} | {REJECTS}
    for stray in folder.glob("*.parquet"):  # blocks without rows, or that turned out not to be needed
        if stray.name not in used:
            stray.unlink()
    for part in (_write_rejects_pages, _write_contact, _soft_leaks):
        pool.submit(part, folder, files, plan.condition)
    from pipeline.report.card import write_card  # imports huggingface_hub: half a second
    from pipeline.report.croissant import write_croissant

    header = {
        "format": FORMAT,
        "name": folder.name,
        "config": identity,
        "fingerprint": fingerprint,
        **code_version(),
        "counts": counts,
        "conditions": list(plan.condition),
        "image_size": plan.image_size,
        "license": plan.license,
        "rejects": reasons,
        "source_notes": list(notes),
        "caption_sources": _caption_sources(folder, files),
        "rejects_sha256": sha256_file(folder / REJECTS),
        "shards": files,
        "eval_fingerprint": shards_fingerprint(files, "eval"),
        "tool_versions": _tool_versions(),
    }
    for _ in range(3):
        header |= pool.result()
    write_card(folder, header)
    write_croissant(folder, header)
    write_json(folder / HEADER, header)
    return header


def _check_counts(plan: BuildPlan, counts: dict[str, int], reasons: dict[str, int]) -> None:
    if not counts["train"] or not counts["eval"]:
        why = ", ".join(f"{k} {v}" for k, v in reasons.items()) or "none rejected"
        raise NothingTakenError(
            f"{plan.folder}: {counts['train']} train and {counts['eval']} eval samples are left ({why}); both must "
            f"have some: {advice(reasons, sum(counts.values()), plan.limits) or 'add images, or raise --eval-share'}"
        )
    for name, count in (("train", plan.size), ("eval", plan.eval_size)):
        if counts[name] < count:
            print(f"note: {name} has {counts[name]} samples, {count} were asked for; the source has no more")


def _caption_sources(folder: Path, files: list[dict[str, Any]]) -> dict[str, int]:
    """Samples by where their caption comes from; "none" for those without one."""
    columns = [read_columns(folder, files, split, ["caption_source"]) for split in ("train", "eval")]
    return dict(Counter(name or "none" for c in columns for name in c["caption_source"].to_pylist()).most_common())


# What workers do for the seal: each returns what it adds to the header.


def _write_rejects_pages(folder: Path, files: list[dict[str, Any]], conditions: tuple[str, ...]) -> dict[str, Any]:
    from pipeline.report.rejects import write_quarantine

    write_quarantine(folder)
    return {}


def _write_contact(folder: Path, files: list[dict[str, Any]], conditions: tuple[str, ...]) -> dict[str, Any]:
    from pipeline.report.contact import write_contact

    write_contact(folder, files, conditions)
    return {}


def _soft_leaks(folder: Path, files: list[dict[str, Any]], conditions: tuple[str, ...]) -> dict[str, Any]:
    from pipeline.report.leaks import soft_leaks

    return {"soft_map_leak": soft_leaks(folder, files, conditions)}


def _tool_versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("numpy", "pillow", "opencv-python-headless", "pyarrow", "controlnet-aux", "imagehash", "scikit-image")
    return {name: version(name) for name in names}
