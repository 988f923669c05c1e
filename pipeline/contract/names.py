"""Names of folders made from options: of characters that every stage, file system, shell and address takes.

The Makefile asks ``python3 -m pipeline.contract.names``, so only the standard library is imported here.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from pipeline.contract.errors import CnlabError, run_cli
from pipeline.contract.sizes import format_size, parse_size

UNSAFE = re.compile(r"[^A-Za-z0-9._+-]+")
PATTERN = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[*?]+|\.(tar|parquet)\b")  # in names of tars and Parquet files
MOST = 80  # characters of a made name's part: with all that is added it stays below the 255 bytes of file systems
RENDERED = ("tabletop", "fill50k")  # sources that are drawn here, by rule


def plain_name(text: str) -> str:
    """``text`` of the characters that a subject's name may have; what others lose is told apart by a short hash.

    ``Bob's photos [1]`` -> ``Bob-s-photos-1``, ``café`` -> ``cafe``, ``写真`` -> ``unnamed-8d1d55``.
    """
    letters = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    name = UNSAFE.sub("-", letters).strip("-.")
    if len(name) > MOST or not letters.isascii():
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:6]
        name = f"{name[:MOST].strip('-.') or 'unnamed'}-{digest}"
    return name or "unnamed"


def check_name(name: str) -> None:
    """Raise CnlabError for a ``--name`` that is no folder below ``--out``; "" is one that is left open."""
    path = Path(name)
    if name and (path.is_absolute() or not path.parts or ".." in path.parts):
        raise CnlabError(f"--name {name} must be the name of a folder below --out; give another place with --out")


def last_part(where: str) -> str:
    """The last part of a path or hub name, whatever slashes follow; of ``.`` and ``..`` the folder's own name."""
    name = where.rstrip("/").rpartition("/")[2]
    return Path(where).resolve().name if name in (".", "..") else name


def source_name(source: str) -> str:
    """What a dataset is called after: the folder, the tars, or owner and name of a hub's dataset."""
    kind, _, where = source.partition(":")
    if kind in RENDERED:
        return kind
    if kind in ("webdataset", "parquet"):
        parts = [PATTERN.sub("", part).strip("-_. ") for part in where.split("/")]
        where = next((part for part in reversed(parts) if part), "")
    elif kind != "hub" or where.startswith(("/", ".", "~")):
        where = last_part(where)
    return plain_name(where.strip("/")) if where.strip("/") else kind


def dataset_name(source: str, conditions: Sequence[str], size: str | int, seed: int) -> str:
    """``photos-canny-2k-s1``."""
    maps = plain_name("-".join(conditions))
    return f"{source_name(source)}-{maps}-{format_size(parse_size(size))}-s{seed}"


def _main() -> None:
    parser = argparse.ArgumentParser(description="Name of a dataset, or with --model of a run on it.")
    parser.add_argument("--source", required=True)
    parser.add_argument("--condition", nargs="+", required=True)
    parser.add_argument("--size", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--model")
    parser.add_argument("--steps", default="")
    args = parser.parse_args()
    name = dataset_name(args.source, args.condition, args.size, args.seed)
    if args.model is not None:
        name += f"-{plain_name(last_part(args.model))}" + (f"-{args.steps}steps" if args.steps else "")
    print(name)


if __name__ == "__main__":
    run_cli(_main)
