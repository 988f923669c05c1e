"""What the first rank does once in a while: held-out losses, pictures, fidelity, the verdict on convergence."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from pipeline.contract.dataset import Triplets
from pipeline.contract.files import read_json, write_json
from pipeline.contract.models import weights_identity
from pipeline.fidelity import other_samples
from trainer.config import Training
from trainer.convergence.detect import Convergence, convergence_of
from trainer.data.items import Items
from trainer.run_folder import CONVERGENCE, grid_path
from trainer.setup import Models
from trainer.watch.recorder import Recorder
from trainer.watch.samples import Sampler
from trainer.watch.validate import ARMS, held_out_loss, validation_rows


class Watcher:
    """Measures the same held-out samples, on the same noise, at every call."""

    def __init__(
        self, training: Training, triplets: Triplets, models: Models, held_out: Items, recorder: Recorder
    ) -> None:
        """``held_out``: samples of the eval split for the losses."""
        self.training, self.models, self.held_out, self.recorder = training, models, held_out, recorder
        keys = triplets.table("eval", ["key"], len(held_out))["key"].to_pylist()
        self.other = other_samples(keys) if len(keys) > 1 else np.zeros(1, np.intp)
        self.alone: Tensor | None = None  # losses without ControlNet, where training does not change them
        weights, self.sampler = annotator_weights(triplets), None
        if training.watch.fidelity_samples:
            self.sampler = Sampler(triplets, models.prior, training.watch, models.half, weights)

    def __call__(self, step: int) -> bool:
        """Measure after ``step`` steps; True when the run is to stop early."""
        training, models = self.training, self.models
        control, images = models.control, step * self.training.batch
        with models.trained.averaged():
            rows = validation_rows(step, images, "loss", self.losses())
            if self.sampler is not None:
                pictures = self.sampler.paint(control)
                scores = self.sampler.fidelity(pictures)
                if step == 0 and (training.variant == "gaussian" or training.init):  # does not start as the prior
                    alone = self.sampler.fidelity(self.sampler.paint(control, scale=0.0))
                    scores |= {"floor": alone["true"] - alone["shuffled"]} if alone else {}
                rows += validation_rows(step, images, "fidelity", scores)
                self.sampler.grid(pictures, grid_path(training.folder, step))
        self.recorder.validate(rows)
        return self.verdict(step)

    def losses(self) -> dict[str, Tensor]:
        """Held-out losses of every arm; the prior's own are computed once, unless its decoder is trained."""
        arms = ARMS if self.alone is None else ARMS[:-1]
        models = self.models
        losses = held_out_loss(models.control, models.prior, self.held_out, self.other, arms, models.half)
        if self.alone is not None:
            losses["none"] = self.alone
        elif models.trained.unlocked is None:
            self.alone = losses["none"]
        return losses

    def verdict(self, step: int) -> bool:
        """Write `convergence.json` as of now; True when the run is to stop: see `stops_early`."""
        table = self.recorder.validation
        now = convergence_of(table)
        write_json(self.training.folder / CONVERGENCE, now.as_dict())
        patience, before = self.training.watch.early_stop, table[table["step"] < step]
        return bool(patience and len(before)) and stops_early(step, patience, now, convergence_of(before))


def stops_early(step: int, patience: int, now: Convergence, before: Convergence) -> bool:
    """Whether ``patience`` steps have passed since convergence, by the verdict of this validation and the last one.

    One verdict in a hundred or so is taken back at the next validation, hence two (docs/convergence.md).
    """
    return bool(now.converged and before.converged and now.step is not None and step >= now.step + patience)


def annotator_weights(triplets: Triplets) -> str:
    """Weights that the dataset's maps were made with, as a hub name or a folder that still holds them; else ""."""
    recorded = triplets.header.get("config", {}).get("weights", {}).get(triplets.condition, "")
    if recorded.startswith("hub:"):
        return str(recorded.removeprefix("hub:"))
    recipe = triplets.folder / ".build.json"
    options = read_json(recipe).get("options", {}) if recorded and recipe.is_file() else {}
    where = str(options.get("weights", {}).get(triplets.condition, ""))
    if recorded and (not where or weights_identity(where) != recorded):
        print(f"note: the {triplets.condition} maps were made with weights that are not at hand", flush=True)
        return ""
    return where if recorded else ""
