"""A ControlNet's diffusers folder to one file for ComfyUI and A1111, and back, bit-equal. Safetensors only."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pipeline.contract.errors import CnlabError
from pipeline.contract.files import atomic, read_json, write_json
from pipeline.contract.identity import sha256_file
from trainer.exchange.layout import check_class, check_shapes, first_few, layout_of
from trainer.exchange.layout_config import find_config

CONFIG, WEIGHTS, CARD, SAMPLES = "config.json", "diffusion_pytorch_model.safetensors", "README.md", "samples.png"
PREFIX = "control_model."  # of the ControlNet inside the released ControlLDM
UNET = "unet"  # of a checkpoint that trained the prior's decoder too
#: Where the diffusers config travels in the file. The only key: safetensors writes several in a random order.
METADATA = "diffusers_config"
#: What an export may put into a folder; --overwrite replaces no folder with anything else in it.
EXPORTED = {CONFIG, WEIGHTS, CARD, SAMPLES, UNET}

Tensors = dict[str, torch.Tensor]


def to_single_file(
    folder: Path, out: Path, dtype: torch.dtype | None = None, prefix: bool = True, overwrite: bool = False
) -> Path:
    """Write the ControlNet in ``folder`` to ``out``, atomically; returns ``out``.

    dtype   to cast to; None keeps every tensor bit-equal
    prefix  names begin with ``control_model.``, as in the released files; readers know them without it too

    Raises CnlabError for another class than `ControlNetModel`, tensors that do not fit config.json, values that
    ``dtype`` cannot hold, and another file in the place of ``out`` unless ``overwrite``.
    """
    config, tensors = read_folder(folder)
    check_class(config, str(folder))
    layout = layout_of(config, str(folder))
    check_shapes(shapes_of(tensors), layout.shapes, str(folder))
    head = PREFIX if prefix else ""
    renamed = {head + layout.names[name]: value for name, value in cast(tensors, dtype, str(folder)).items()}
    with placing(out, overwrite) as part:
        save_file(renamed, part, metadata={METADATA: json.dumps(config, sort_keys=True)})
    return out


def from_single_file(path: Path, folder: Path, like: Path | None = None, overwrite: bool = False) -> Path:
    """Write the ControlNet in the file ``path`` to a diffusers ``folder``, atomically; returns ``folder``.

    The config is the one inside the file if it was written here, that of ``like`` if given, and is otherwise read off
    the shapes (`trainer.exchange.layout_config`). Raises CnlabError for a pickle, a damaged file, tensors that fit no
    ControlNet, and another folder in the place of ``folder`` unless ``overwrite``.
    """
    tensors, metadata = read_safetensors(path)
    tensors = _without_prefix(tensors, str(path))
    config = find_config(shapes_of(tensors), metadata.get(METADATA), like, str(path))
    layout = layout_of(config, str(path))
    check_shapes(shapes_of(tensors), layout.single_shapes, str(path))
    with placing(folder, overwrite) as part:
        write_folder(part, config, {name: tensors[single] for name, single in layout.names.items()})
    return folder


def read_folder(folder: Path) -> tuple[dict[str, Any], Tensors]:
    """Config and tensors of a diffusers folder. The config loses ``_name_or_path``, a path of the machine."""
    if not (folder / CONFIG).is_file():
        raise CnlabError(f"{folder} is not a diffusers folder (no {CONFIG})")
    if not (folder / WEIGHTS).is_file():
        raise CnlabError(f"{folder} has no {WEIGHTS}; other formats, pickles above all, are not read")
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict):
        raise CnlabError(f"{folder / CONFIG} is not a JSON object")
    config.pop("_name_or_path", None)
    return config, read_safetensors(folder / WEIGHTS)[0]


def write_folder(folder: Path, config: Mapping[str, Any], tensors: Tensors) -> None:
    """Write config.json and the weights as diffusers does."""
    folder.mkdir()
    write_json(folder / CONFIG, config)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def read_safetensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    """Tensors (memory-mapped, on the CPU) and metadata; raises CnlabError for anything but a whole safetensors file."""
    if not path.is_file():
        raise CnlabError(f"{path} is not a file")
    with path.open("rb") as handle:
        start = handle.read(9)
    if start[8:] != b"{":  # 8 bytes of length, then a JSON object
        pickled = start[:4] == b"PK\x03\x04" or start[:1] == b"\x80"
        kind = "a pickle, which could run any code and is never opened" if pickled else "not a safetensors file"
        raise CnlabError(f"{path} is {kind}; convert it to safetensors where you trust it")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise CnlabError(f"{path} is damaged ({error}); copy it again") from error


def cast(tensors: Tensors, dtype: torch.dtype | None, where: str) -> Tensors:
    """Floating-point tensors in ``dtype`` (None: as they are). Raises CnlabError for NaN, infinity and overflow."""
    converted = {
        name: value.to(dtype or value.dtype).contiguous() if value.is_floating_point() else value
        for name, value in tensors.items()
    }
    bad = [name for name, value in converted.items() if not value.isfinite().all()]
    if bad:
        hint = f" in {dtype}; choose another --dtype" if dtype and all(tensors[n].isfinite().all() for n in bad) else ""
        raise CnlabError(f"{where} has values that are not finite{hint}: {first_few(bad)}")
    return converted


def _without_prefix(tensors: Tensors, where: str) -> Tensors:
    """Names without ``control_model.``; raises CnlabError when only some have it, or for other layouts."""
    if "controlnet_cond_embedding.conv_in.weight" in tensors:
        raise CnlabError(
            f"{where} is in diffusers' layout already: put it into a folder as {WEIGHTS} beside its {CONFIG}"
        )
    if not any(name.startswith(PREFIX) for name in tensors):
        return tensors
    foreign = [name for name in tensors if not name.startswith(PREFIX)]
    if foreign:
        raise CnlabError(f"{where} holds more than a ControlNet; unknown: {first_few(foreign)}")
    return {name.removeprefix(PREFIX): value for name, value in tensors.items()}


def shapes_of(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor."""
    return {name: tuple(value.shape) for name, value in tensors.items()}


@contextlib.contextmanager
def placing(out: Path, overwrite: bool) -> Iterator[Path]:
    """Yield a hidden path beside ``out`` for a file or folder; on success move it there (`files.atomic`).

    An ``out`` that exists stays when it is identical, is replaced with ``overwrite``, and is refused otherwise.
    """
    if out.name in ("", ".."):
        raise CnlabError(f"--out {out} names no file or folder of its own")
    with contextlib.suppress(_Identical), atomic(out) as part:
        yield part
        if out.exists():
            if _contents(out) == _contents(part):
                raise _Identical
            _check_replaceable(out, part, overwrite)
        mask = os.umask(0)
        os.umask(mask)
        for file in _files(part):
            file.chmod(0o666 & ~mask)  # safetensors writes for the owner alone


class _Identical(Exception):
    """What was written stands there already."""


def _check_replaceable(out: Path, part: Path, overwrite: bool) -> None:
    if not overwrite:
        raise CnlabError(f"{out} exists and differs; choose another --out or add --overwrite")
    if out.is_dir() != part.is_dir():
        raise CnlabError(f"{out} is a {'folder' if out.is_dir() else 'file'}; choose another --out")
    foreign = [] if out.is_file() else [p.name for p in out.iterdir() if p.name not in EXPORTED]
    if foreign:
        raise CnlabError(f"{out} holds {first_few(foreign)}, which no export wrote; choose another --out")


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def _contents(path: Path) -> dict[str, str]:
    return {p.relative_to(path).as_posix(): sha256_file(p) for p in _files(path)}
