"""Checkpoints out of a run, and ControlNets of others into diffusers' layout. No optimizer, no state, no pickle."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.contract.errors import CnlabError
from trainer.run_folder import CHECKPOINTS, checkpoints, is_finished, log_lines, read_summary

if TYPE_CHECKING:  # torch takes seconds to import, and the command line's help does not need it
    import torch

    from trainer.exchange.card import Facts


@dataclass(frozen=True)
class ExportConfig:
    """A checkpoint of a run as a clean diffusers folder with a model card, or as one file for ComfyUI and A1111."""

    run: Path  # runs/ID, or a diffusers folder of a ControlNet
    out: Path  # folder to write; with --layout single a .safetensors file
    layout: Literal["diffusers", "single"] = "diffusers"
    dtype: Literal["keep", "float32", "float16", "bfloat16"] = "keep"  # keep: every tensor bit-equal
    step: int | None = None  # of the checkpoint; None: that of summary.json, else the newest
    results: Path = Path("results/results.parquet")  # table of cnlab-eval, for the model card
    license: str = "unknown"  # of the weights, for the card: an identifier of the hub, e.g. openrail
    overwrite: bool = False  # replace another export in the place of out


@dataclass(frozen=True)
class ImportConfig:
    """A ControlNet in the single-file layout (control_model. keys, safetensors) as a diffusers folder."""

    file: Path  # NAME.safetensors
    out: Path  # folder to write
    like: Path | None = None  # folder of a ControlNet, UNet or pipeline of its architecture: what shapes do not tell
    overwrite: bool = False  # replace another import in the place of out


def export(config: ExportConfig) -> Path:
    """Write the checkpoint to ``config.out``, atomically, and return that; the same again does nothing.

    Raises CnlabError for a run or step that is not there, a damaged checkpoint, a class that the layout has no place
    for, and another file or folder in the place of ``config.out``.
    """
    import torch

    from trainer.exchange.single_file import UNET, to_single_file

    checkpoint, step = find_checkpoint(config.run, config.step)
    dtype: torch.dtype | None = None if config.dtype == "keep" else getattr(torch, config.dtype)
    if config.layout == "single":
        if (checkpoint / UNET).is_dir():
            print(f"note: {config.out} holds the ControlNet alone; the decoder trained with it is {checkpoint / UNET}")
        if config.out.suffix != ".safetensors":
            raise CnlabError(f"--out {config.out} must end in .safetensors for --layout single")
        return to_single_file(checkpoint, config.out, dtype, overwrite=config.overwrite)
    return _export_folder(config, checkpoint, step, dtype)


def import_file(config: ImportConfig) -> Path:
    """Write ``config.file`` to the diffusers folder ``config.out`` and return that (`single_file.from_single_file`)."""
    from trainer.exchange.single_file import from_single_file

    return from_single_file(config.file, config.out, config.like, config.overwrite)


def _export_folder(config: ExportConfig, checkpoint: Path, step: int | None, dtype: torch.dtype | None) -> Path:
    from trainer.exchange.card import Facts, card_text, read_facts, read_rows
    from trainer.exchange.layout import CLASS, check_shapes, expected_shapes
    from trainer.exchange.single_file import CARD, SAMPLES, UNET, cast, placing, read_folder, shapes_of, write_folder

    model, tensors = read_folder(checkpoint)
    if model.get("_class_name") == CLASS:
        check_shapes(shapes_of(tensors), expected_shapes(model, str(checkpoint)), str(checkpoint))
    facts: Facts = Facts(name=config.run.resolve().name) if step is None else read_facts(config.run, step)
    rows: list[dict[str, Any]] = [] if step is None else read_rows(config.results, facts.name, step)
    text = card_text(facts, rows, model, config.license)
    with placing(config.out, config.overwrite) as part:
        write_folder(part, model, cast(tensors, dtype, str(checkpoint)))
        if (checkpoint / UNET).is_dir():  # the prior's decoder was trained with it
            shutil.copytree(checkpoint / UNET, part / UNET)
        if facts.samples:
            shutil.copyfile(facts.samples, part / SAMPLES)
        (part / CARD).write_text(text, encoding="utf-8")
    return config.out


def find_checkpoint(run: Path, step: int | None) -> tuple[Path, int | None]:
    """(folder, step) of a run's checkpoint; a ControlNet's own folder is itself, without a step. Raises CnlabError."""
    if not (run / CHECKPOINTS).is_dir():
        if not (run / "config.json").is_file() or not list(run.glob("*.safetensors")):
            raise CnlabError(f"{run} is neither a run (no checkpoints) nor a diffusers folder of a ControlNet")
        if step is not None:
            raise CnlabError(f"{run} is a ControlNet, not a run; leave --step out")
        return run, None
    saved = checkpoints(run)
    if step is None:
        step = read_summary(run).get("step", max(saved, default=None))
    if step not in saved:
        steps = ", ".join(map(str, saved)) or "none"
        raise CnlabError(f"{run} has no checkpoint of step {step}; there are: {steps}")
    _refuse_nan(run, step)
    return saved[step], step


def _refuse_nan(run: Path, step: int) -> None:
    """Of a run that ended in losses that are no numbers only what a later loss has shown to be sound is exported."""
    lines = log_lines(run)
    if is_finished(run) or not lines or lines[-1].get("loss") is not None:
        return
    sound = max((line["step"] for line in lines if line.get("loss") is not None), default=0)
    if step >= sound:
        raise CnlabError(
            f"{run}: its training ended in losses that are no numbers (the last number is of step {sound}), so the "
            f"checkpoint of step {step} is not a result; train again with a lower --lr or another --precision"
        )
