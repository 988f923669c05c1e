"""Atomic, rotating checkpoints: safetensors and JSON only, a folder per step, ``state.json`` written last.

A checkpoint is built in a hidden folder beside its place and moved there by one rename, so a folder named
``step-*`` is whole by construction; older ones are removed only after that rename.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pipeline.contract.errors import CnlabError
from pipeline.contract.files import atomic, read_json, remove, remove_parts
from trainer.run_folder import STATE


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state as flat tensors, ``<parameter index>.<name>``; hyper-parameters live in the config."""
    state = optimizer.state_dict()["state"]
    flat = {f"{i}.{k}": v for i, entry in state.items() for k, v in entry.items() if isinstance(v, torch.Tensor)}
    return {k: v.detach().contiguous() for k, v in flat.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put tensors from `optimizer_tensors` back. Raises ValueError when they belong to another model."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        if int(index) >= len(params):
            raise ValueError(f"optimizer state names parameter {index} but the model has {len(params)}")
        param = params[int(index)]
        if value.shape == param.shape:
            # fused kernels walk moments and weights in memory order, so their strides must agree (channels_last)
            value = torch.empty_like(param, dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def save_checkpoint(
    root: Path, step: int, write: Callable[[Path], None], state: dict[str, Any], count: int = 2
) -> Path:
    """Write checkpoint ``step`` below ``root``: ``write(folder)`` puts the weights, then ``state`` seals it.

    The newest ``count`` checkpoints stay. Returns the finished folder.
    """
    final = root / f"step-{step:07d}"
    with atomic(final) as building:
        building.mkdir()
        write(building)
        (building / STATE).write_text(json.dumps({"step": step, **state}, indent=1))
    for old in list_checkpoints(root)[:-count]:
        remove(old)
    return final


def list_checkpoints(root: Path) -> list[Path]:
    """Finished checkpoints below ``root``, oldest first."""
    return sorted(p for p in root.glob("step-*") if (p / STATE).is_file())


def latest_checkpoint(root: Path) -> Path | None:
    """The newest finished checkpoint, or None. Left-overs of killed saves are swept away."""
    remove_parts(root)
    finished = list_checkpoints(root)
    return finished[-1] if finished else None


def read_state(folder: Path, *names: str) -> dict[str, Any]:
    """``state.json`` of a checkpoint, with ``step`` and ``names``; a damaged one raises CnlabError with its folder."""
    try:
        state: dict[str, Any] = read_json(folder / STATE)
        return state | {name: state[name] for name in ("step", *names)}
    except (CnlabError, KeyError, TypeError) as error:
        raise CnlabError(f"{folder / STATE} is damaged; delete {folder} to fall back to the one before") from error


def save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Save CPU or GPU tensors as safetensors; shared storage is copied apart."""
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, path)


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Load safetensors; a damaged or missing file raises CnlabError naming it."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CnlabError(f"{path} is damaged ({error}); delete {path.parent} to fall back to the one before") from error
