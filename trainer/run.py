"""A run: everything the loop needs, put together, and everything it leaves behind."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from diffusers import ControlNetModel
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from pipeline.dataset import Triplets
from pipeline.io import CnlabError, atomic, check_fingerprint, code_version, lock_folder, write_json
from trainer.checkpoint import (
    latest_checkpoint,
    load_optimizer,
    load_tensors,
    optimizer_tensors,
    read_state,
    save_checkpoint,
    save_tensors,
)
from trainer.config import TrainConfig
from trainer.data import Items, Order, load_items
from trainer.loop import Hooks, train
from trainer.models import Prior, build_controlnet, load_prior, model_fingerprint
from trainer.samples import Sampler
from trainer.validate import held_out_loss


def choose_device(name: str) -> torch.device:
    """``auto`` takes CUDA when there is one; raises CnlabError when the wanted device is missing."""
    if name not in ("auto", "cpu", "cuda"):
        raise CnlabError(f"device {name!r} must be auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise CnlabError("device cuda was asked for, but torch sees none; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


@dataclass
class Recorder:
    """log.jsonl, validation.parquet, TensorBoard, progress. Lines past the resumed step are dropped first."""

    folder: Path
    config: TrainConfig
    start: int
    bar: Any = field(init=False)
    began: float = field(init=False)

    def __post_init__(self) -> None:
        log = self.folder / "log.jsonl"
        if log.exists():
            kept = [s for s in log.read_text().splitlines() if _step_of(s) <= self.start]
            with atomic(log) as temporary:
                temporary.write_text("".join(s + "\n" for s in kept))
        path = self.folder / "validation.parquet"
        rows = pd.read_parquet(path) if path.exists() else pd.DataFrame(columns=["step", "arm", "loss", "n"])
        self.validation: list[dict[str, Any]] = [
            {str(k): v for k, v in row.items()} for row in rows[rows["step"] <= self.start].to_dict("records")
        ]
        self.board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.start + 1)
        self.bar = tqdm(total=self.config.steps, initial=self.start, desc="train", unit="step", mininterval=1)
        self.began = time.perf_counter()

    def log(self, step: int, figures: dict[str, float]) -> None:
        """One line of log.jsonl and its TensorBoard scalars."""
        assert self.config.batch is not None
        rate = (step - self.start) * self.config.batch / (time.perf_counter() - self.began)
        row = {"step": step, "images": step * self.config.batch, **figures, "images_per_second": round(rate, 2)}
        with (self.folder / "log.jsonl").open("a") as out:
            out.write(json.dumps(row) + "\n")
        for name, value in figures.items():
            self.board.add_scalar(f"train/{name}", value, step)
        self.bar.update(step - self.bar.n)
        self.bar.set_postfix(loss=f"{figures['loss']:.4f}", img_s=f"{rate:.1f}")

    def validate(self, step: int, losses: dict[str, torch.Tensor]) -> None:
        """Rewrite validation.parquet with the new rows."""
        new: list[dict[str, Any]] = [
            {"step": step, "arm": arm, "loss": v.mean().item(), "n": len(v)} for arm, v in losses.items()
        ]
        self.validation = [r for r in self.validation if r["step"] != step] + new
        with atomic(self.folder / "validation.parquet") as temporary:
            pd.DataFrame(self.validation).to_parquet(temporary, index=False)
        for row in new:
            self.board.add_scalar(f"validation/{row['arm']}", row["loss"], step)

    def close(self) -> None:
        """Flush and close."""
        self.bar.close()
        self.board.close()


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError):  # a line cut short by a kill
        return float("inf")


def _save(root: Path, step: int, control: ControlNetModel, optimizer: torch.optim.Optimizer, run: TrainConfig) -> None:
    def write(place: Path) -> None:
        control.save_pretrained(place)
        save_tensors(optimizer_tensors(optimizer), place / "optimizer.safetensors")

    save_checkpoint(root, step, write, {"seed": run.seed})


def _restore(root: Path, control: ControlNetModel, optimizer: torch.optim.Optimizer) -> int:
    """Load the newest checkpoint into the model and optimizer; returns its step, 0 when there is none."""
    found = latest_checkpoint(root)
    if found is None:
        return 0
    control.load_state_dict(load_tensors(found / "diffusion_pytorch_model.safetensors"))
    load_optimizer(optimizer, load_tensors(found / "optimizer.safetensors"))
    step: int = read_state(found)["step"]
    print(f"resuming from {found}")
    return step


def _batches(items: Items, config: TrainConfig, start: int) -> Iterable[dict[str, torch.Tensor]]:
    assert config.batch is not None and config.steps is not None
    order = Order(len(items), config.batch, config.seed, start, config.steps)
    workers = 4 if torch.cuda.is_available() else 0  # on a CPU they would only take threads from the model
    return DataLoader(items, batch_sampler=order, num_workers=workers, pin_memory=workers > 0)


def run_training(config: TrainConfig) -> Path:
    """Train, resume or find the run of ``config``; returns its folder. The summary is written last."""
    config = config.resolved()
    triplets = Triplets(config.dataset)
    model = model_fingerprint(config.model)
    identity, folder = config.fingerprint(triplets.fingerprint, model), config.folder
    with lock_folder(folder):
        if check_fingerprint(folder / "summary.json", identity):
            print(f"{folder} is complete")
            return folder
        if not check_fingerprint(folder / "config.json", identity):
            write_json(folder / "config.json", _config_record(config, triplets, model, identity))
        device = choose_device(config.device)
        prior = load_prior(config.model, device)
        _fit(config, triplets, prior, folder, model)
        write_json(folder / "summary.json", _summary(config, triplets, folder, identity))
    return folder


def _config_record(config: TrainConfig, triplets: Triplets, model: str, identity: str) -> dict[str, Any]:
    return {
        "config": config.as_dict(),
        "dataset": {"path": str(config.dataset), "name": triplets.header["name"], "fingerprint": triplets.fingerprint},
        "model": {"path": config.model, "sha256": model},
        "fingerprint": identity,
        **code_version(),
    }


def _fit(config: TrainConfig, triplets: Triplets, prior: Prior, folder: Path, model: str) -> None:
    assert config.hint is not None and config.lr is not None
    control = build_controlnet(prior.unet, config.hint, config.seed, config.hint_init or "released").to(
        memory_format=torch.channels_last
    )
    prior.unet.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(control.parameters(), lr=config.lr, weight_decay=1e-2, fused=True)
    items = load_items(triplets, "train", config.subset_size, prior, model)
    held_out = load_items(
        triplets, "eval", min(config.validation_samples, triplets.header["counts"]["eval"]), prior, model
    )
    sampler = Sampler(triplets, prior, config.samples) if config.sample_every else None
    checkpoints = folder / "checkpoints"
    start = _restore(checkpoints, control, optimizer)
    recorder = Recorder(folder, config, start)
    hooks = Hooks(
        log=recorder.log,
        validate=lambda step: recorder.validate(step, held_out_loss(control, prior, held_out)),
        sample=lambda step: sampler.grid(control, folder / "samples" / f"step-{step:07d}.png") if sampler else None,
        save=lambda step: _save(checkpoints, step, control, optimizer, config),
    )
    if start == 0:
        hooks.validate(0)
    try:
        train(control, prior, optimizer, _batches(items, config, start), config, start, hooks)
    finally:
        recorder.close()


def _summary(config: TrainConfig, triplets: Triplets, folder: Path, identity: str) -> dict[str, Any]:
    found = latest_checkpoint(folder / "checkpoints")
    if found is None:
        raise CnlabError(f"{folder} has no checkpoint after training")
    rows = pd.read_parquet(folder / "validation.parquet")
    final = rows[rows["step"] == rows["step"].max()]
    return {
        "step": read_state(found)["step"],
        "fingerprint": identity,
        "train_seed": config.seed,
        "dataset": triplets.header["name"],
        "dataset_path": str(config.dataset),
        "dataset_fingerprint": triplets.fingerprint,
        "condition": triplets.condition,
        "subset_size": config.subset_size or triplets.header["counts"]["train"],
        "model": config.model,
        "checkpoint": str(found.relative_to(folder)),
        "validation": {str(r.arm): float(r.loss) for r in final.itertuples()},
        **code_version(),
    }


__all__ = ["choose_device", "run_training"]
