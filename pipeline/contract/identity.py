"""Identity: what decides a result, and its fingerprint."""

from __future__ import annotations

import hashlib
import json
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline.contract.errors import CnlabError
from pipeline.contract.files import read_json
from pipeline.contract.options import differing

#: What fields of identities say that their names do not.
MEANINGS = {"source_fingerprint": "files of the source were added, removed or changed"}


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces, the text that fingerprints are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)


def fingerprint(value: Any) -> str:
    """sha256 (hex) of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def check_fingerprint(header: Path, expected: str, identity: dict[str, Any] | None = None) -> bool:
    """True when ``header`` exists and belongs to this config, False when absent; a foreign one raises CnlabError.

    The message names the fields that differ where ``identity`` is given and the header records its own as ``config``.
    """
    if not header.exists():
        return False
    record = read_json(header)
    if record.get("fingerprint") != expected:
        before = record.get("config")
        names: list[str] = []
        if identity and isinstance(before, dict):
            names = list(dict.fromkeys([*differing(before, identity), *differing(identity, before)]))
        names = [f"{name} ({MEANINGS[name]})" if name in MEANINGS else name for name in names]
        why = f"it differs in {', '.join(names)}" if names else "its fingerprint differs"
        raise CnlabError(
            f"{header.parent} was made with another configuration ({why}); give this one another NAME "
            "(--name), take the options it was made with, or delete that folder"
        )
    return True


@cache
def code_version() -> dict[str, str]:
    """``{"version": ..., "commit": ...}`` of this toolkit; the commit is ``unknown`` outside a git checkout."""
    try:
        release = version("controlnet-lab")
    except PackageNotFoundError:
        release = "unknown"
    here = Path(__file__).resolve().parents[2]
    git = ["git", "-C", str(here)]
    try:
        top = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, timeout=10)
        dirty = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10)
        commit = top.stdout.strip() + ("+" if dirty.stdout.strip() else "") if top.returncode == 0 else "unknown"
    except (OSError, subprocess.TimeoutExpired):
        commit = "unknown"
    return {"version": release, "commit": commit}
