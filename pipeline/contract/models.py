"""Loading models that others trained: from a local folder or the hub, quietly, with one line when it fails."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator

from pipeline.contract.errors import CnlabError


@contextlib.contextmanager
def loading(name: str, where: str) -> Iterator[None]:
    """Quietly load the model called ``name`` from ``where``; whatever fails becomes one CnlabError line."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # of optional parts that are not used here
            yield
    except Exception as error:  # damaged files and unreachable hubs raise nearly anything
        said = (str(error).strip() or "no reason given").splitlines()[0].rstrip(".")
        raise CnlabError(
            f"the model {name!r} cannot be loaded from {where} ({type(error).__name__}: {said}); "
            f"give a local folder or another hub name with --weights {name} PATH"
        ) from error


def device() -> str:
    """CUDA if there is one, else the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
