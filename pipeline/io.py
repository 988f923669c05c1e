"""Files as the contract wants them: fingerprints, atomic writes, locks, one-line errors."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

from filelock import FileLock, Timeout

SUFFIXES = {"k": 1_000, "m": 1_000_000}


class CnlabError(Exception):
    """Bad input, said in one line: what, where, how to mend. Command lines print it and exit with status 2."""


def parse_size(text: str | int) -> int:
    """``"50k"`` -> 50000. Accepts a whole number with an optional k or m; raises CnlabError otherwise."""
    raw = str(text).strip().lower().replace("_", "")
    factor = SUFFIXES.get(raw[-1:], 1)
    digits = raw[:-1] if factor > 1 else raw
    try:
        number = float(digits) * factor
    except ValueError:
        number = -1.0
    if number < 1 or number != int(number):
        raise CnlabError(f"size {text!r} is not a positive number such as 2000 or 50k")
    return int(number)


def format_size(number: int) -> str:
    """50000 -> ``"50k"``; numbers that are not whole thousands stay as they are."""
    return f"{number // 1000}k" if number >= 1000 and number % 1000 == 0 else str(number)


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


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success fsync it and rename it into place, else remove it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.filename is None:  # libraries do not always say which file
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write pretty JSON atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, default=str) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; a missing or damaged file raises CnlabError naming it."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CnlabError(f"{path} does not exist; run the stage before this one first") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CnlabError(
            f"{path} is not valid JSON ({error}); delete it and run the stage that makes it again"
        ) from error


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this process; a second one gets a CnlabError at once."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise CnlabError(f"{folder} is in use by another process; wait for it or choose another name") from error
    try:
        yield
    finally:
        lock.release()


def check_fingerprint(header: Path, expected: str) -> bool:
    """True when ``header`` exists and belongs to this config, False when absent; a foreign one raises CnlabError."""
    if not header.exists():
        return False
    found = read_json(header).get("fingerprint")
    if found != expected:
        raise CnlabError(
            f"{header.parent} was made with another configuration (fingerprint {str(found)[:12]}, this command's is "
            f"{expected[:12]}); choose another NAME or delete that folder"
        )
    return True


@cache
def code_version() -> dict[str, str]:
    """``{"version": ..., "commit": ...}`` of this toolkit; the commit is ``unknown`` outside a git checkout."""
    try:
        release = version("controlnet-lab")
    except PackageNotFoundError:
        release = "unknown"
    here = Path(__file__).resolve().parent.parent
    git = ["git", "-C", str(here)]
    try:
        top = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, timeout=10)
        dirty = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10)
        commit = top.stdout.strip() + ("+" if dirty.stdout.strip() else "") if top.returncode == 0 else "unknown"
    except (OSError, subprocess.TimeoutExpired):
        commit = "unknown"
    return {"version": release, "commit": commit}


def run_cli(main: Callable[[], None]) -> NoReturn:
    """Run a command line: CnlabError and full disks end in one line and status 2, Ctrl-C in status 130."""
    try:
        main()
    except CnlabError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        print(f"error: {error.strerror or error}: {error.filename or ''}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None
    raise SystemExit(0)
