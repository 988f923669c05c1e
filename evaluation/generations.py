"""The folder ``results/generations``: the one writer and reader of generated pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.sampling import seed_of
from evaluation.subjects import Samples
from pipeline.contract.errors import CnlabError
from pipeline.contract.files import lock_folder, read_json, write_json
from pipeline.contract.identity import check_fingerprint, fingerprint, sha256_file
from pipeline.contract.pictures import Pictures, read_picture, stack_images, write_picture
from pipeline.fidelity import other_samples
from trainer.run_folder import Run

if TYPE_CHECKING:
    pass

from evaluation.sampling import Painter, Recipe


def file_of(key: str, group: int) -> str:
    """KEY-GROUP.png, KEY being 16 hex digits of sha256(key)."""
    return f"{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}-{group}.png"


REQUEST, MANIFEST = "request.json", "manifest.json"


def identity(run: Run, arm: str, samples: Samples, groups: tuple[int, ...], recipe: Recipe) -> dict[str, Any]:
    """Everything the pictures of one arm depend on; its fingerprint guards their folder."""
    weights = run.checkpoint / "diffusion_pytorch_model.safetensors"
    if not weights.is_file():
        raise CnlabError(f"{weights} does not exist; train run {run.id} again")
    return {
        "run": run.summary["fingerprint"],
        "step": run.summary["step"],
        "controlnet": None if arm == "prior" else sha256_file(weights),
        "model": run.model_mark,
        "dataset": samples.fingerprint,
        "arm": arm,
        "keys": list(samples.keys),
        "groups": list(groups),
        "recipe": asdict(recipe),
    }


def folder_of(results: Path, run: Run, arm: str) -> Path:
    """Where an arm's pictures lie."""
    return results / "generations" / run.id / arm


def generate(folder: Path, job: dict[str, Any], samples: Samples, batch: int, paint: Callable[[], Painter]) -> int:
    """Make the pictures that ``job`` (from `identity`) asks for and ``folder`` lacks; returns how many were made.

    ``paint`` loads the models and is called only when there is work. A request of another configuration in the same
    folder is refused. The manifest is written when the last picture is there.
    """
    from tqdm import tqdm

    mark = fingerprint(job)
    with lock_folder(folder):
        if check_fingerprint(folder / MANIFEST, mark):
            return 0
        if not check_fingerprint(folder / REQUEST, mark):
            write_json(folder / REQUEST, {**job, "fingerprint": mark})
        shuffled = job["arm"] == "shuffled"
        order = other_samples(samples.keys) if shuffled else np.arange(len(samples))
        todo = [
            (i, group)
            for group in job["groups"]
            for i in range(len(samples))
            if not (folder / file_of(samples.keys[i], group)).exists()
        ]
        painter = paint() if todo else None
        with tqdm(total=len(todo), desc=f"{folder.parent.name}/{job['arm']}", unit="image") as bar:
            for start in range(0, len(todo), batch):
                part = todo[start : start + batch]
                assert painter is not None
                chosen = [i for i, _ in part]
                pictures = painter(
                    [samples.texts[i] for i in chosen],
                    samples.maps[order[chosen]],
                    [seed_of(samples.keys[i], group) for i, group in part],
                )
                for (i, group), picture in zip(part, pictures, strict=True):
                    write_picture(folder / file_of(samples.keys[i], group), picture)
                bar.update(len(part))
        write_json(folder / MANIFEST, _manifest(folder, job, samples, order.tolist()) | {"fingerprint": mark})
        return len(todo)


def _manifest(folder: Path, job: dict[str, Any], samples: Samples, order: list[int]) -> dict[str, Any]:
    images = [
        {
            "file": file_of(key, group),
            "key": key,
            "text": samples.texts[i],
            "map_key": None if job["arm"] == "prior" else samples.keys[order[i]],
            "group": group,
            "seed": seed_of(key, group),
        }
        for group in job["groups"]
        for i, key in enumerate(samples.keys)
    ]
    return {"run": folder.parent.name, "dataset": samples.name, "arm": job["arm"], "images": images, "config": job}


def load_generated(folder: Path, samples: Samples, group: int) -> Pictures:
    """The pictures of one group in the order of ``samples``; an incomplete folder raises CnlabError."""
    listed = {(entry["key"], entry["group"]): entry["file"] for entry in read_json(folder / MANIFEST)["images"]}
    missing = [key for key in samples.keys if (key, group) not in listed]
    if missing:
        raise CnlabError(f"{folder} has no picture of {missing[0]!r} in group {group}; delete it and generate again")
    # the name comes from the manifest: keep it inside the folder
    pictures = [read_picture(folder / Path(listed[key, group]).name) for key in samples.keys]
    return stack_images(pictures, str(folder))
