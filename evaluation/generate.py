"""Pictures from a run: the same scenes with the same noise in every arm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.data import Run, Samples, derangement, file_of, seed_of
from evaluation.images import Pictures, read_picture, stack_images, to_uint8, write_picture
from pipeline.io import CnlabError, check_fingerprint, fingerprint, lock_folder, read_json, sha256_file, write_json

if TYPE_CHECKING:
    from torch import Tensor

REQUEST, MANIFEST = "request.json", "manifest.json"
VERSION = "1"  # of the recipe below: scheduler, noise, rounding


@dataclass(frozen=True)
class Recipe:
    """What decides the pixels beside run, arm and samples. No negative prompt is used."""

    steps: int
    guidance: float
    dtype: str = "float32"
    scheduler: str = "UniPCMultistepScheduler"
    version: str = VERSION


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
        order = derangement(samples.keys) if shuffled else np.arange(len(samples))
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


class Painter:
    """A diffusers pipeline behind one call: captions, maps and seeds to pictures."""

    def __init__(self, model: str, checkpoint: Path | None, recipe: Recipe, device: str) -> None:
        """``checkpoint`` is the ControlNet's folder (any variant), None for the prior alone."""
        import torch

        from trainer.models import load_pipeline

        dtype = getattr(torch, recipe.dtype)
        pipe = load_pipeline(model, checkpoint, dtype)
        self.pipe, self.recipe, self.dtype, self.controlled = pipe.to(device), recipe, dtype, checkpoint is not None

    def __call__(self, texts: list[str], maps: Pictures, seeds: list[int]) -> Pictures:
        """B captions, (B, S, S, 3) uint8 maps and B seeds -> (B, S, S, 3) uint8 pictures."""
        import torch

        size = maps.shape[1]
        shape = (self.pipe.unet.config.in_channels, size // self.pipe.vae_scale_factor)
        call: dict[str, Any] = {"prompt": texts, "latents": _noise(seeds, *shape).to(self.pipe.device, self.dtype)}
        if self.controlled:
            # (B, 3, S, S) float in [0, 1], what the pipeline's own processor makes of a PIL picture
            call["image"] = torch.from_numpy(maps).permute(0, 3, 1, 2).to(self.dtype) / 255
        found = self.pipe(
            **call,
            height=size,
            width=size,
            num_inference_steps=self.recipe.steps,
            guidance_scale=self.recipe.guidance,
            output_type="np",
        )
        return to_uint8(found.images, "generation")

    def autoencode(self, images: Pictures, batch: int) -> Pictures:
        """(N, S, S, 3) uint8 through the autoencoder and back: the best its decoder could do."""
        import torch

        parts = []
        with torch.inference_mode():
            for start in range(0, len(images), batch):
                pixels = torch.from_numpy(images[start : start + batch]).permute(0, 3, 1, 2)
                pixels = (pixels / 127.5 - 1).to(self.pipe.device, self.dtype)
                latents = self.pipe.vae.encode(pixels).latent_dist.mode()
                decoded = self.pipe.vae.decode(latents).sample.float() / 2 + 0.5
                parts.append(to_uint8(decoded.permute(0, 2, 3, 1).cpu().numpy(), "autoencoder"))
        return np.concatenate(parts)


def _noise(seeds: list[int], channels: int, side: int) -> Tensor:
    """(B, channels, side, side) float32; each image has its own generator on the CPU, whatever batch and device."""
    import torch

    draws = [torch.randn((channels, side, side), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(draws)
