"""A run: everything the loop needs, put together, and everything it leaves behind."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pipeline.contract.dataset import Triplets
from pipeline.contract.errors import CnlabError
from pipeline.contract.files import lock_folder, read_json, write_json
from pipeline.contract.identity import canonical, code_version
from trainer.config import TrainConfig
from trainer.convergence.detect import Convergence, convergence_of
from trainer.data.items import Batches, Draw, Items, flip_safe, load_items
from trainer.loop import Denoiser, Hooks, train
from trainer.nets.control import build_control, decoder_parameters
from trainer.nets.models import Prior, load_prior, model_identity
from trainer.parallel import Ranks, launched
from trainer.run_folder import CONFIG, CONVERGENCE, SUMMARY, read_validation
from trainer.state.checkpoint import latest_checkpoint, read_state
from trainer.state.trained import Trained
from trainer.watch.recorder import Recorder
from trainer.watch.samples import Sampler
from trainer.watch.validate import held_out_loss, validation_rows


@dataclass
class Job:
    """A run under way on this rank."""

    config: TrainConfig
    triplets: Triplets
    prior: Prior
    model: str  # fingerprint of the prior
    ranks: Ranks
    device: torch.device
    init: str = ""
    identity: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Of the run."""
        return self.config.folder

    @property
    def starts_as_prior(self) -> bool:
        """Whether the untrained net leaves the prior as it is."""
        return self.config.variant != "gaussian" and not self.config.init

    @cached_property
    def control(self) -> ControlNetModel:
        """The trained net, and the prior set up around it."""
        config = self.config
        recipe = config.fine
        control = build_control(
            self.prior.unet, recipe.hint, config.seed, recipe.hint_init, config.variant, config.init
        )
        if config.unlock_decoder:
            for parameter in decoder_parameters(self.prior.unet):
                parameter.requires_grad_(True)
        elif self.device.type == "cuda" and config.precision in ("bf16", "fp16"):  # frozen: half the memory, no casts
            self.prior.unet.to(torch.bfloat16 if config.precision == "bf16" else torch.float16)
        if "channels_last" in config.engine:
            control.to(memory_format=torch.channels_last)
            self.prior.unet.to(memory_format=torch.channels_last)
        if "checkpointing" in config.engine:
            control.enable_gradient_checkpointing()
            self.prior.unet.enable_gradient_checkpointing()  # the residuals' gradients pass through its decoder
        return control

    @cached_property
    def trained(self) -> Trained:
        """Weights, optimizer, scaler and moving average: all that a checkpoint holds."""
        config, recipe = self.config, self.config.fine
        unlocked = decoder_parameters(self.prior.unet) if config.unlock_decoder else []
        params = [p for p in self.control.parameters() if p.requires_grad] + unlocked
        optimizer = torch.optim.AdamW(params, lr=config.lr or 0.0, weight_decay=recipe.weight_decay, fused=True)
        # loss scaling for fp16 alone; in any precision the scaler skips steps whose gradients are not finite
        scaler = torch.amp.GradScaler(self.device.type, init_scale=2.0**16 if config.precision == "fp16" else 1.0)
        ema = EMAModel(params, decay=recipe.ema) if recipe.ema else None
        return Trained(self.control, self.prior.unet if unlocked else None, params, optimizer, scaler, ema)

    def items(self, split: str, count: int | None) -> Items:
        """Samples of a split; the first rank computes what is cached, the others read it."""
        text_cache = "text_cache" in self.config.engine
        flip = self.config.flip and split == "train"
        with self.ranks.in_turn():
            return load_items(self.triplets, split, count, self.prior, self.model, flip=flip, text_cache=text_cache)

    def batches(self, items: Items, start: int) -> Iterator[list[dict[str, Tensor]]]:
        """Micro-batches of every step from ``start`` on; raises CnlabError when a loading process dies."""
        config = self.config
        assert config.batch is not None and config.steps is not None and config.prompt_drop is not None
        draw = Draw(
            config.batch, config.seed, self.prior.scheduler.config.num_train_timesteps, config.prompt_drop, config.flip
        )
        source = Batches(items, draw, config.accumulate, self.ranks.rank, self.ranks.world)
        # on a CPU they would only take threads from the model
        workers = min(8, max((os.cpu_count() or 1) // self.ranks.world - 1, 1)) if self.device.type == "cuda" else 0
        loader = DataLoader(
            source,
            batch_size=None,
            sampler=range(start, config.steps),
            num_workers=workers,
            pin_memory=workers > 0,
            prefetch_factor=4 if workers else None,
        )
        try:
            yield from loader
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise CnlabError(
                f"{self.folder}: a data-loading process died ({error}); run the same command again"
            ) from error


class Watch:
    """What the first rank does once in a while: held-out losses, pictures, fidelity, the convergence verdict."""

    def __init__(self, job: Job, recorder: Recorder) -> None:
        """Loads the held-out samples."""
        recipe, self.job, self.recorder = job.config.fine, job, recorder
        count = min(recipe.loss_samples, job.triplets.count("eval"))
        self.held_out = load_items(
            job.triplets, "eval", count, job.prior, job.model, text_cache="text_cache" in job.config.engine
        )
        self.sampler = Sampler(job.triplets, job.prior, recipe) if recipe.fidelity_samples else None

    def __call__(self, step: int) -> bool:
        """Measure after ``step`` steps; True when the run is to stop early."""
        job = self.job
        control = job.control
        images = step * (job.config.batch or 0)
        with job.trained.averaged():
            rows = validation_rows(step, images, "loss", held_out_loss(control, job.prior, self.held_out))
            if self.sampler is not None:
                pictures = self.sampler.draw(control)
                scores = self.sampler.fidelity(pictures)
                if step == 0 and not job.starts_as_prior:
                    alone = self.sampler.fidelity(self.sampler.draw(control, scale=0.0))
                    scores |= {"floor": alone["true"] - alone["shuffled"]} if alone else {}
                rows += validation_rows(step, images, "fidelity", scores)
                self.sampler.grid(pictures, job.folder / "samples" / f"step-{step:07d}.png")
        self.recorder.validate(rows)
        return self.verdict(step)

    def verdict(self, step: int) -> bool:
        """Write `convergence.json` as of now; True when the run is to stop: see `stops_early`."""
        table = self.recorder.validation
        found = convergence_of(table)
        write_json(self.job.folder / CONVERGENCE, found.as_dict())
        patience = self.job.config.early_stop
        return bool(patience) and stops_early(step, patience, found, convergence_of(table[table["step"] < step]))


def stops_early(step: int, patience: int, now: Convergence, before: Convergence) -> bool:
    """Whether ``patience`` steps have passed since convergence, said at this validation and at the one before.

    One verdict in a hundred or so is taken back at the next validation, hence two (docs/convergence.md).
    """
    return bool(now.converged and before.converged and now.step is not None and step >= now.step + patience)


def run_training(config: TrainConfig) -> Path:
    """Train, resume or find the run of ``config``; returns its folder. The summary is written last."""
    triplets = Triplets(config.dataset)
    config = config.resolved(triplets.condition)
    if config.flip and not flip_safe(triplets.condition):
        raise CnlabError(f"--flip: mirrored, a {triplets.condition} map is not the map of the mirrored image")
    model, init = model_identity(config.model), model_identity(config.init)
    identity = config.identity(triplets.fingerprint, model, init)
    with launched(config.device) as (ranks, device):
        share = ranks.world * config.accumulate
        if config.batch and config.batch % share:
            raise CnlabError(f"--batch {config.batch} cannot be shared by {ranks.world} ranks x {config.accumulate}")
        with lock_folder(config.folder) if ranks.first else contextlib.nullcontext():
            found = _claim(config, triplets, identity) if ranks.first else False
            if ranks.agree(found, device):
                if ranks.first:
                    print(f"{config.folder} is complete")
                return config.folder
            set_speed(config, device)
            job = Job(config, triplets, load_prior(config.model, device), model, ranks, device, init, identity)
            _fit(job)
            if ranks.first:
                write_json(config.folder / SUMMARY, _summary(job))
            ranks.wait()
    return config.folder


def _claim(config: TrainConfig, triplets: Triplets, identity: dict[str, Any]) -> bool:
    """True when the run is complete; refuses another run's folder, saying what differs; marks a new one."""
    folder = config.folder
    if (folder / CONFIG).exists():
        there = read_json(folder / CONFIG).get("identity", {})
        differs = [k for k in identity if canonical(there.get(k)) != canonical(identity[k])]
        if differs:
            raise CnlabError(
                f"{folder} was made with another configuration (it differs in {', '.join(differs)}); "
                "choose another NAME or delete that folder"
            )
        return (folder / SUMMARY).exists()
    if any(folder.glob("checkpoints/step-*")):
        raise CnlabError(f"{folder} holds checkpoints of an unknown run; choose another NAME or delete that folder")
    triplets.verify()
    record = {
        "config": config.as_dict(),
        "identity": identity,
        "dataset": {"path": str(config.dataset), "name": triplets.header["name"], "fingerprint": triplets.fingerprint},
        "model": {"path": config.model, "sha256": identity["model"]},
        "fingerprint": config.fingerprint(triplets.fingerprint, identity["model"], identity["init"]),
        **code_version(),
    }
    write_json(folder / CONFIG, record)
    return False


def set_speed(config: TrainConfig, device: torch.device) -> None:
    """Of the whole process: how matrix products and convolutions are computed."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high" if config.precision == "tf32" else "highest")


def _fit(job: Job) -> None:
    config, ranks = job.config, job.ranks
    assert config.steps is not None and config.batch is not None
    items = job.items("train", config.subset_size)
    checkpoints = job.folder / "checkpoints"
    newest = latest_checkpoint(checkpoints) if ranks.first else None
    ranks.wait()
    newest = newest if ranks.first else latest_checkpoint(checkpoints)
    start = job.trained.restore(newest) if newest else 0
    recorder = Recorder(job.folder, start, config.steps, config.batch) if ranks.first else None
    watch = Watch(job, recorder) if recorder else None
    if watch:
        if start == 0:
            watch(0)
        elif watch.verdict(start):  # killed between the last checkpoint and the summary
            start = config.steps

    def log(step: int, figures: dict[str, Tensor | float]) -> None:
        loss = ranks.mean(torch.as_tensor(figures["loss"]))
        if recorder:
            recorder.log(step, {**{k: float(v) for k, v in figures.items()}, "loss": loss.item()})

    hooks = Hooks(
        log=log,
        validate=lambda step: ranks.agree(watch(step) if watch else False, job.device),
        save=lambda step: job.trained.save(checkpoints, step) if ranks.first else None,
    )
    try:
        if not ranks.agree(start >= config.steps, job.device):
            train(build_denoiser(job), job.prior, job.trained, job.batches(items, start), config, start, hooks)
    finally:
        if recorder:
            recorder.close()


def build_denoiser(job: Job) -> nn.Module:
    """Prior and ControlNet as the loop takes them."""
    denoiser = Denoiser(job.prior.unet, job.control)
    if "compile" in job.config.engine:
        denoiser.compile()
    return job.ranks.wrap(denoiser)


def _summary(job: Job) -> dict[str, Any]:
    config, folder = job.config, job.folder
    newest = latest_checkpoint(folder / "checkpoints")
    if newest is None:
        raise CnlabError(f"{folder} has no checkpoint after training")
    rows = read_validation(folder)
    final = rows[rows["step"] == rows["step"].max()]
    found = convergence_of(rows)
    step = read_state(newest)["step"]
    return {
        "step": step,
        "images": step * (config.batch or 0),
        "fingerprint": read_json(folder / CONFIG)["fingerprint"],
        "train_seed": config.seed,
        "dataset": job.triplets.header["name"],
        "dataset_path": str(config.dataset),
        "dataset_fingerprint": job.triplets.fingerprint,
        "condition": job.triplets.condition,
        "subset_size": config.subset_size or job.triplets.count("train"),
        "model": config.model,
        "variant": config.variant,
        "checkpoint": str(newest.relative_to(folder)),
        "parameters": sum(p.numel() for p in job.trained.params),
        "validation": {f"{r.metric}/{r.arm}": float(r.value) for r in final.itertuples()},
        "converged": found.converged,
        "convergence_step": found.step,
        **code_version(),
    }
