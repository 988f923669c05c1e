"""Is the hub there? Asked before its libraries are, which try again for minutes."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

from pipeline.contract.errors import CnlabError, first_line

PATIENCE = 4.0  # seconds, name lookup included
NAMES = {"model": re.compile(r"[\w.-]+/[\w.-]+"), "dataset": re.compile(r"[\w.-]+(/[\w.-]+)?")}


def require_hub(name: str, kind: str = "model", way_out: str = "give a local folder") -> None:
    """Raise CnlabError within 5 s where ``name`` (of a ``model`` or a ``dataset``) needs a hub that does not answer.

    Nothing is asked for local paths, for what lies in the cache already, and with ``HF_HUB_OFFLINE``, when the
    libraries themselves end at once.
    """
    if not NAMES[kind].fullmatch(name):
        return
    import huggingface_hub
    from huggingface_hub import constants

    cached = [Path(constants.HF_HUB_CACHE) / f"{kind}s--{name.replace('/', '--')}"]
    if kind == "dataset":
        from datasets import config

        cached.append(Path(config.HF_DATASETS_CACHE) / name.replace("/", "___"))
    if constants.HF_HUB_OFFLINE or Path(name).exists() or any(path.is_dir() for path in cached):
        return
    answer: list[str] = []

    def ask() -> None:
        try:
            huggingface_hub.get_session().head(constants.ENDPOINT, timeout=PATIENCE)
            answer.append("")
        except Exception as error:  # proxies, certificates and sockets raise nearly anything
            answer.append(f"{type(error).__name__}: {first_line(error)[:150]}")

    # a thread, for no timeout covers the lookup of the hub's address
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if answer == [""]:
        return
    why = answer[0] if answer else f"no answer in {PATIENCE:.0f} s"
    address = os.environ.get("HF_ENDPOINT", "the hub")
    raise CnlabError(
        f"{name!r} is no local path and {address} cannot be reached ({why}); check the network, HTTPS_PROXY or "
        f"HF_ENDPOINT, or {way_out}"
    )
