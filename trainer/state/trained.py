"""All that training changes, and its way to a checkpoint and back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from torch import nn

from pipeline.contract.errors import CnlabError
from trainer.nets.lora import FACTORS, factors
from trainer.state.checkpoint import (
    load_optimizer,
    load_tensors,
    optimizer_tensors,
    read_state,
    save_checkpoint,
    save_tensors,
)

WEIGHTS = "diffusion_pytorch_model.safetensors"  # diffusers' name


@dataclass
class Trained:
    """The net, the prior's UNet where its decoder is trained too, and what the optimizer knows."""

    control: ControlNetModel
    unlocked: UNet2DConditionModel | None
    params: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: EMAModel | None
    memory: torch.memory_format = torch.contiguous_format  # of the networks' inputs and weights

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """With the moving average in place of the weights, where there is one."""
        if self.ema is None:
            yield
            return
        self.ema.store(self.params)
        self.ema.copy_to(self.params)
        try:
            yield
        finally:
            self.ema.restore(self.params)

    def save(self, root: Path, step: int, count: int = 2) -> None:
        """Write checkpoint ``step`` below ``root``: a diffusers folder, with what resuming needs beside it.

        The folder's own weights are the averaged ones where there is an average; the raw ones are in ``raw``.
        """
        if not all(bool(parameter.isfinite().all()) for parameter in self.params):
            raise CnlabError(
                f"{root.parent}: after step {step} weights are no finite numbers, so no checkpoint is written; lower "
                "--lr, take another --precision, or look at the data"
            )

        def write(folder: Path) -> None:
            with self.averaged():
                self.control.save_pretrained(folder)
                if self.unlocked is not None:
                    self.unlocked.save_pretrained(folder / "unet")
            save_tensors(optimizer_tensors(self.optimizer), folder / "optimizer.safetensors")
            if updates := factors(self.control):
                save_tensors(dict(updates), folder / FACTORS)
            if self.ema is not None:
                save_tensors(_numbered(self.params), folder / "raw.safetensors")
                save_tensors(_numbered(self.ema.shadow_params), folder / "ema.safetensors")

        save_checkpoint(root, step, write, {"scaler": self.scaler.state_dict()}, count)

    def restore(self, folder: Path) -> int:
        """Load a checkpoint into all of this; returns its step. A damaged file raises CnlabError naming it."""
        state = read_state(folder, "scaler")
        self.control.load_state_dict(load_tensors(folder / WEIGHTS))
        if self.unlocked is not None:
            self.unlocked.load_state_dict(load_tensors(folder / "unet" / WEIGHTS))
        if updates := factors(self.control):
            values = load_tensors(folder / FACTORS)
            with torch.no_grad():
                for name, parameter in updates.items():
                    parameter.copy_(values[name])
        if self.ema is not None:
            shadow, raw = (load_tensors(folder / f"{name}.safetensors") for name in ("ema", "raw"))
            with torch.no_grad():
                for i, parameter in enumerate(self.params):
                    parameter.copy_(raw[str(i)])
                    self.ema.shadow_params[i].copy_(shadow[str(i)])
            self.ema.optimization_step = state["step"]
        load_optimizer(self.optimizer, load_tensors(folder / "optimizer.safetensors"))
        self.scaler.load_state_dict(state["scaler"])
        print(f"resuming from {folder}", flush=True)
        step: int = state["step"]
        return step


def _numbered(tensors: list[nn.Parameter]) -> dict[str, torch.Tensor]:
    return {str(i): tensor for i, tensor in enumerate(tensors)}
