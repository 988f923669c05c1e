"""A run: everything the loop needs, put together, and everything it leaves behind."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.contract.dataset import Triplets
from pipeline.contract.errors import CnlabError
from pipeline.contract.files import lock_folder, remove, write_json
from pipeline.contract.identity import code_version
from pipeline.contract.options import differing
from trainer.config import TrainConfig, Training
from trainer.convergence.detect import convergence_of
from trainer.data.batches import Batches, Draw, load_batches
from trainer.data.cache import cache_folder, prune
from trainer.data.captions import FIRST, captions_of
from trainer.data.encode import subset_order
from trainer.data.items import Items, flip_safe, load_items
from trainer.loop import Hooks, train
from trainer.memory import architecture_of
from trainer.nets.base import model_identity, model_record, options_of
from trainer.nets.fit import check_init
from trainer.nets.models import Prior, load_prior
from trainer.parallel import Ranks, launched
from trainer.plan import ENCODING_ADVICE, Planner, step_advice, validation_advice
from trainer.run_folder import (
    CHECKPOINTS,
    CONFIG,
    SIGNED,
    SUMMARY,
    checkpoints,
    damaged_config,
    is_finished,
    log_lines,
    read_config,
    read_validation,
)
from trainer.setup import Models, build_models, set_speed
from trainer.state.checkpoint import latest_checkpoint, read_state
from trainer.state.extend import extended, open_record
from trainer.watch.recorder import Recorder
from trainer.watch.watcher import Watcher


@dataclass(frozen=True)
class Setup:
    """A run under way on this rank, before its networks are built: what it reads, and where it computes."""

    training: Training
    triplets: Triplets
    model: str  # identity of the prior
    identity: dict[str, Any]
    ranks: Ranks
    device: torch.device

    @property
    def folder(self) -> Path:
        """Of the run."""
        return self.training.folder

    def items(self, prior: Prior, split: str, count: int | None) -> Items:
        """Samples of a split; called by all ranks at once, which share the encoding of what is to be cached."""
        training, own = self.training, split == "train"
        with _fits(self.folder, f"while the {split} samples are encoded", ENCODING_ADVICE):
            return load_items(
                self.triplets, split, count, prior, self.model, flip=training.flip and own,
                text_cache="text_cache" in training.engine, order_seed=training.order_seed if own else 0,
                captions=training.captions if own else "first", device=self.device, ranks=self.ranks,
            )  # fmt: skip

    def batches(self, prior: Prior, items: Items, start: int) -> Iterator[list[dict[str, Tensor]]]:
        """Micro-batches of every step from ``start`` on."""
        training, ranks = self.training, self.ranks
        timesteps = prior.scheduler.config.num_train_timesteps
        draw = Draw(training.batch, training.seed, timesteps, training.prompt_drop, training.flip)
        source = Batches(items, draw, training.accumulate, ranks.rank, ranks.world)
        return load_batches(source, start, training.steps, self.device.type == "cuda", self.folder)


def resolve(config: TrainConfig) -> tuple[Training, Triplets]:
    """Options as the run will take them, and its dataset; raises CnlabError for what cannot work."""
    if config.extend is not None:
        training = extended(config)
        triplets = Triplets(training.dataset)
    else:
        triplets = Triplets(config.dataset)
        training = config.resolved(triplets.condition)
    safe = config.extend is not None or flip_safe(triplets.condition) or triplets.condition in config.data.flip_safe
    if training.flip and not safe:
        raise CnlabError(
            f"--flip: mirrored, a {triplets.condition} map is not, or not known to be, the map of the mirrored image; "
            f"leave --flip out, or add --flip-safe {triplets.condition} where it is"
        )
    if training.init:
        check_init(training.init, training.model, training.base, training.unlock_decoder, training.variant)
    if training.captions != FIRST:
        rows = subset_order(triplets, "train", training.order_seed, training.subset)
        captions_of(triplets, "train", np.sort(rows), training.captions, anywhere=True)
    return training, triplets


def run_training(config: TrainConfig | Training) -> Path:
    """Train, resume, extend or find the run of ``config``; returns its folder. The summary is written last."""
    extends = isinstance(config, TrainConfig) and config.extend is not None
    if isinstance(config, TrainConfig):
        training, triplets = resolve(config)
    else:
        training, triplets = config, Triplets(config.dataset)
    model, init = model_identity(training.model, training.base), model_identity(training.init)
    identity = training.identity(triplets.fingerprint, model, init)
    with launched(training.device) as (ranks, device):
        if training.batch % (ranks.world * training.accumulate):
            raise CnlabError(
                f"--batch {training.batch} cannot be shared by {ranks.world} ranks x {training.accumulate}"
            )
        if isinstance(config, TrainConfig) and config.accumulate is None and device.type == "cuda":
            training = _split(training, triplets, ranks, device)
        setup = Setup(training, triplets, model, identity, ranks, device)
        with lock_folder(training.folder) if ranks.first else contextlib.nullcontext():
            part = training.batch // (training.accumulate * ranks.world)
            advice = f"run the same command with {step_advice(training, ranks.world)} (what is computed stays the same)"
            with _nothing_left_behind(setup), _fits(setup.folder, f"with {part} images at once", advice):
                complete = _claim(setup, extends) if ranks.first else False
                if ranks.broadcast(complete, device):
                    if ranks.first:
                        print(f"{training.folder} is complete")
                    return training.folder
                models, items = _fit(setup)
            if ranks.first:
                write_json(training.folder / SUMMARY, _summary(setup, models, items))
            ranks.wait()
    return training.folder


def _split(training: Training, triplets: Triplets, ranks: Ranks, device: torch.device) -> Training:
    """With as few micro-batches as the memory that is free on the devices allows, by the plan, which is printed.

    One decision for all ranks, by the device that has the least.
    """
    capacity = ranks.least(torch.cuda.mem_get_info(device)[0], device)
    size = triplets.header["image_size"]
    split = Planner(architecture_of(training.model, training.base), training, size).split(capacity, ranks.world)
    if ranks.first:
        part = training.batch // (split.accumulate * ranks.world)
        print(
            f"{split.accumulate} micro-batches of {part} images a step:", *split.plan.lines(part), sep="\n", flush=True
        )
        if split.engine != training.engine:
            print("activations are recomputed in the backward pass (--engine checkpointing): more images fit at once, "
                  "and what is computed stays the same", flush=True)  # fmt: skip
    return replace(training, accumulate=split.accumulate, engine=split.engine)


@contextlib.contextmanager
def _nothing_left_behind(setup: Setup) -> Iterator[None]:
    """A new run that fails before its first step leaves no folder."""
    folder = setup.folder
    new = setup.ranks.first and not (folder / CONFIG).exists() and not checkpoints(folder)
    try:
        yield
    except BaseException:
        if new and not checkpoints(folder) and not log_lines(folder):
            remove(folder)
        raise


@contextlib.contextmanager
def _fits(folder: Path, work: str, advice: str) -> Iterator[None]:
    """Out of memory at this ``work`` becomes one line with what helps there."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise CnlabError(f"{folder}: out of memory {work}; {advice}") from error


def _claim(setup: Setup, extends: bool) -> bool:
    """True when the run is complete; refuses another run's folder and names what differs; marks a new one."""
    folder, identity, training = setup.folder, setup.identity, setup.training
    record = open_record(folder)
    options = training.as_dict()
    if record:
        names = differing(record.get("identity", {}), identity)
        if names and not (extends and names == ["steps"]):
            hint = f"; to go on with it: --extend {folder} --steps {training.steps}" if names == ["steps"] else ""
            if names == ["model"] and (commit := options_of(record["model"]).revision):
                hint = f"; its model's commit: --revision {commit}"
            raise CnlabError(
                f"{folder} was made with another configuration (it differs in {', '.join(names)}); "
                f"choose another NAME or delete that folder{hint}"
            )
        if not names and is_finished(folder):
            return True
        history = list(record.get("history", []))
        if changed := differing(record["config"], options):
            history.append(
                {"step": max(checkpoints(folder), default=0), "changed": changed, "before": record["config"]}
            )
        remove(folder / SUMMARY)
    else:
        if checkpoints(folder):
            raise damaged_config(folder, "it is not there, beside checkpoints")
        setup.triplets.verify()
        history = []
    header = setup.triplets.header
    dataset = {"path": str(training.dataset), "name": header["name"], "fingerprint": setup.triplets.fingerprint}
    write_json(
        folder / CONFIG,
        {
            "config": options,
            "identity": identity,
            "dataset": dataset,
            "model": model_record(training.model, training.base, setup.model),
            "fingerprint": training.fingerprint(setup.triplets.fingerprint, setup.model, identity["init"]),
            "history": history,
            **code_version(),
        },
    )
    return False


def _fit(setup: Setup) -> tuple[Models, Items]:
    training, ranks, device = setup.training, setup.ranks, setup.device
    set_speed(training.precision, device)
    prior = load_prior(training.model, torch.device("cpu"), training.base)
    if ranks.first:
        data = setup.triplets
        prune(cache_folder(data.folder, data.fingerprint), data.fingerprint, data.folder)
    ranks.wait()
    items = setup.items(prior, "train", training.subset)
    if items.cut and ranks.first:
        length = prior.tokenizers[0].model_max_length
        print(f"note: {items.cut} of {len(items)} captions are longer than the {length} tokens that the text encoder "
              "reads; what comes after them is not seen", flush=True)  # fmt: skip
    held_out = setup.items(prior, "eval", min(training.watch.loss_samples, setup.triplets.count("eval")))
    models = build_models(training, prior, device, ranks)
    root = setup.folder / CHECKPOINTS
    newest = latest_checkpoint(root) if ranks.first else None
    ranks.wait()
    newest = newest if ranks.first else latest_checkpoint(root)
    start = models.trained.restore(newest) if newest else 0
    if ranks.first and not newest and log_lines(setup.folder):
        print(f"note: {setup.folder} has no checkpoint; it is trained from the beginning", flush=True)
    recorder = Recorder(setup.folder, start, training.steps, training.batch) if ranks.first else None
    # closed before a failure may remove the folder: TensorBoard writes from a thread of its own
    with contextlib.closing(recorder) if recorder else contextlib.nullcontext():
        watcher = Watcher(training, setup.triplets, models, held_out, recorder) if recorder else None
        hooks = _hooks(setup, models, recorder, watcher)
        lost = recorder is not None and recorder.validation.empty  # of a run whose table was deleted
        if ranks.broadcast(start == 0 or lost, device):
            hooks.validate(start)
        elif watcher and watcher.verdict(start):  # killed between the last checkpoint and the summary
            start = training.steps
        if not ranks.broadcast(start >= training.steps, device):
            batches = setup.batches(prior, items, start)
            train(models.denoiser, prior, models.trained, batches, training, start, hooks)
    return models, items


def _hooks(setup: Setup, models: Models, recorder: Recorder | None, watcher: Watcher | None) -> Hooks:
    """What the loop calls once in a while; only the first rank has a recorder and a watcher."""
    ranks, options = setup.ranks, setup.training.save
    saved = [time.monotonic()]

    def log(step: int, figures: dict[str, Tensor | float]) -> None:
        loss = ranks.mean(torch.as_tensor(figures["loss"]))
        if recorder:
            recorder.log(step, {**{k: float(v) for k, v in figures.items()}, "loss": loss.item()})

    def validate(step: int) -> bool:
        stop = False
        if recorder and watcher:
            advice = validation_advice(setup.training, begun=step > 0)
            with recorder.paused(), _fits(setup.folder, f"in the validation at step {step}", advice):
                stop = watcher(step)
        return ranks.broadcast(stop, setup.device)

    def save(step: int, due: bool) -> None:
        late = options.minutes > 0 and time.monotonic() - saved[0] >= 60 * options.minutes
        if recorder and (due or late):
            with recorder.paused():
                models.trained.save(setup.folder / CHECKPOINTS, step, options.keep)
            saved[0] = time.monotonic()

    return Hooks(log, validate, save)


def _summary(setup: Setup, models: Models, items: Items) -> dict[str, Any]:
    training, triplets, folder = setup.training, setup.triplets, setup.folder
    newest = latest_checkpoint(folder / CHECKPOINTS)
    if newest is None:
        raise CnlabError(f"{folder} has no checkpoint after training")
    rows = read_validation(folder)
    final = rows[rows["step"] == rows["step"].max()]
    validation = {f"{r.metric}/{r.arm}": float(r.value) for r in final.itertuples()}
    _refuse_nan(folder, validation)
    verdict = convergence_of(rows)
    step = read_state(newest)["step"]
    return {
        "step": step,
        "images": step * training.batch,
        "fingerprint": read_config(folder)["fingerprint"],
        "train_seed": training.seed,
        "order_seed": training.order_seed,
        "dataset": triplets.header["name"],
        "dataset_path": str(training.dataset),
        "dataset_fingerprint": triplets.fingerprint,
        "condition": triplets.condition,
        "signed_hint": triplets.condition in SIGNED,
        "subset_size": len(items),
        "captions_cut": items.cut,
        "model": training.model,
        "variant": training.variant,
        "checkpoint": str(newest.relative_to(folder)),
        "parameters": sum(p.numel() for p in models.trained.params),
        "validation": validation,
        "converged": verdict.converged,
        "convergence_step": verdict.step,
        **code_version(),
    }


def _refuse_nan(folder: Path, validation: dict[str, float]) -> None:
    """A run whose last losses are no numbers ends in an error, never in a summary."""
    bad = [name for name, value in validation.items() if not math.isfinite(value)]
    log = log_lines(folder)
    if log and log[-1].get("loss") is None:
        bad.append("the last training loss")
    if bad:
        raise CnlabError(
            f"{folder}: at its end {', '.join(bad)} are no finite numbers; it is not a result. Lower --lr, take "
            "another --precision, or look at the data, and train under another --name"
        )
