"""A run that exists, as the options to go on with: more steps, and what may change besides."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.contract.errors import CnlabError
from pipeline.contract.options import option_name
from pipeline.contract.sizes import parse_size
from trainer.config import IDENTITY, OPERATIONAL, WATCH_DECIDING, TrainConfig, Training, pick_precision, training_from
from trainer.nets.base import options_of
from trainer.run_folder import CONFIG, damaged_config, read_config

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

#: Options of ``--extend`` that are no options of the run, or are looked at by themselves.
APART = {"extend", "steps", "dataset", "dry_run", "preset", "data.flip_safe", "base.revision"}


def open_record(folder: Path) -> dict[str, Any]:
    """`read_config` of a run that can be continued; empty where there is none. Raises CnlabError for another one."""
    record = read_config(folder)
    version = record.get("identity", {}).get("version", 1)
    if record and version != IDENTITY:
        raise CnlabError(
            f"{folder} was trained by an earlier controlnet-lab (identity {version}, now {IDENTITY}: its latents and "
            "held-out losses are computed otherwise since), so it cannot be continued; it can be evaluated and "
            "exported as it is, or trained anew under another --name"
        )
    if record and not {"config", "model"} <= record.keys():
        raise damaged_config(folder, "it lacks options of the run")
    return record


def extended(config: TrainConfig) -> Training:
    """The recorded options of the run that ``--extend`` names, with more steps. Raises CnlabError.

    Given again with as many steps as the run has, it goes on with an extension that was cut off.
    """
    assert config.extend is not None
    folder = config.extend
    record = open_record(folder)
    if not record:
        raise CnlabError(f"--extend {folder}: there is no run in that folder (no {CONFIG})")
    training = training_from(record["config"])
    if config.steps is None or config.steps < training.steps:
        raise CnlabError(f"--extend {folder}: it has {training.steps} steps; give more with --steps N")
    if training.optimizer.schedule != "constant" and config.steps > training.steps:
        raise CnlabError(
            f"--extend {folder}: its rate decays to the end of its {training.steps} steps "
            f"({training.optimizer.schedule} schedule), so a longer run is another one; train it anew"
        )
    dataset = config.dataset if config.dataset != TrainConfig().dataset else training.dataset
    base = options_of(record["model"])  # a hub model at the commit that the run has
    training = replace(training, out=folder.parent, name=folder.name, dataset=dataset, base=base)
    given = _given(config, TrainConfig())
    _refuse_others(folder, given, training)
    changed: dict[str, Any] = {name: given[name] for name in OPERATIONAL if name in given}
    for group in ("watch", "save"):
        values = {key.partition(".")[2]: value for key, value in given.items() if key.startswith(f"{group}.")}
        changed[group] = replace(getattr(training, group), **values)
    training = replace(training, steps=config.steps, **changed)
    training.check()
    return training


def _given(options: DataclassInstance, usual: DataclassInstance, prefix: str = "") -> dict[str, Any]:
    """Options that are not as they are when left open, those of groups as ``group.name``."""
    given: dict[str, Any] = {}
    for field in fields(options):
        value, default = getattr(options, field.name), getattr(usual, field.name)
        if is_dataclass(value) and not isinstance(value, type):
            given |= _given(value, default, f"{prefix}{field.name}.")
        elif value != default:
            given[prefix + field.name] = value
    return given


def _refuse_others(folder: Path, given: dict[str, Any], training: Training) -> None:
    """Raise CnlabError for an option that would make another run; the run's own values may be said again."""
    for key, value in given.items():
        group, _, name = key.rpartition(".")
        may_change = key.split(".")[0] in OPERATIONAL or (group == "watch" and name not in WATCH_DECIDING)
        if key in APART or may_change:
            continue
        own = getattr(training if group in ("", "data") else getattr(training, group), name)
        if key == "subset":
            value = parse_size(value)
        elif key == "precision" and value == "auto":
            value = pick_precision(training.device)
        elif key == "out":
            own, value = own.resolve(), value.resolve()
        if value != own:
            option = option_name(name if group in ("", "base", "data") else key)
            raise CnlabError(
                f"--extend {folder}: it goes on with the run's own options ({option} {own}), {option} {value} would be "
                "another run; leave it out, or train anew under another --name without --extend"
            )
