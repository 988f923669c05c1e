"""Models that others trained: loaded quietly from a folder or the hub, identified by their weights, put on a device."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

from pipeline.contract.errors import CnlabError, first_line
from pipeline.contract.hub import require_hub
from pipeline.contract.identity import fingerprint, sha256_file

#: Suffixes of what decides a model's outputs: weights and configurations, not cards or pictures.
WEIGHT_FILES = (".safetensors", ".json", ".bin", ".pt", ".pth", ".onnx")


@contextlib.contextmanager
def loading(name: str, where: str, option: str = "") -> Iterator[None]:
    """Quietly load the model called ``name`` from ``where``; whatever fails becomes one CnlabError line.

    ``option`` is how the command at hand takes another one; by default the dataset's ``--weights NAME``.
    """
    way_out = f"give a local folder or another hub name with {option or f'--weights {name}'} PATH"
    require_hub(where, "model", way_out)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # of optional parts that are not used here
            yield
    except Exception as error:  # damaged files and unreachable hubs raise nearly anything
        raise CnlabError(
            f"the model {name!r} cannot be loaded from {where} ({type(error).__name__}: {first_line(error)}); {way_out}"
        ) from error


def pick_device(name: str = "auto") -> str:
    """``auto`` -> cuda where there is one, else cpu; raises CnlabError for a device that is not there."""
    import torch

    there = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if there else "cpu"
    if name.startswith("cuda") and not there:
        raise CnlabError(f"--device {name}: torch sees no CUDA device; use --device cpu")
    if name != "cpu" and not name.startswith("cuda"):
        raise CnlabError(f"--device {name} is none of auto, cpu, cuda, cuda:N")
    return name


def weights_identity(where: str) -> str:
    """What identifies a model wherever it lies.

    A local file or folder: sha256 over names and contents of its weights and configurations. A hub name: ``hub:NAME``.
    "" for none.
    """
    path = Path(where)
    if not where or not path.exists():
        return f"hub:{where}" if where else ""
    if path.is_file():
        return sha256_file(path)
    files = sorted(p for p in path.rglob("*") if p.suffix in WEIGHT_FILES)
    return fingerprint({p.relative_to(path).as_posix(): sha256_file(p) for p in files})
