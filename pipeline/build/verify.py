"""``cnlab-dataset verify``: is a finished set still what its header says; if not, make only the damage again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.build.run import build, source_identity
from pipeline.config import DatasetConfig, VerifyConfig
from pipeline.contract.dataset import BEFORE, CLAIM, HEADER, REJECTS, read_header
from pipeline.contract.errors import CnlabError
from pipeline.contract.files import lock_folder, read_json
from pipeline.contract.identity import sha256_file
from pipeline.sources.columns import ReadConfig


def damaged_files(folder: Path) -> list[str]:
    """Names of shards (and the table of rejects) that are missing or differ from the header's sha256."""
    header = read_header(folder)
    sums = {s["file"]: s["sha256"] for s in header["shards"]} | {REJECTS: header["rejects_sha256"]}
    return [name for name, sha in sums.items() if not _matches(folder / name, sha)]


def _matches(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_file(path) == sha256


def repair(folder: Path, damaged: list[str], source: str = "") -> dict[str, Any]:
    """Remove what is damaged and build on from the rest; the result must have the sums that the header had.

    The header steps aside first, so a repair that is interrupted leaves an unfinished build, which the same repair or
    the build's own command finish. Raises CnlabError when the claim is missing or the source has changed.
    """
    before, config = read_header(folder), restored_config(folder, source)
    if source_identity(config.resolve())[1] != before["fingerprint"]:
        raise CnlabError(f"{config.source} has changed since {folder} was built; build under a new NAME instead")
    with lock_folder(folder):
        if (folder / HEADER).exists():
            (folder / HEADER).replace(folder / BEFORE)
        for name in damaged:
            (folder / name).unlink(missing_ok=True)
    after = build(config)
    (folder / BEFORE).unlink()
    if after["shards"] != before["shards"]:
        changed = [s["file"] for s, t in zip(after["shards"], before["shards"], strict=False) if s != t]
        raise CnlabError(
            f"{folder} was built again, but {', '.join(changed) or 'the list of shards'} differs from before: the "
            "source or a library has changed; trust the new set only under a new NAME"
        )
    return after


def restored_config(folder: Path, source: str = "") -> DatasetConfig:
    """The options that built ``folder``, from its claim; ``source`` replaces a source that has moved."""
    claim = folder / CLAIM
    if not claim.is_file():
        raise CnlabError(f"{claim} is missing, so the build's options are unknown; run the build's own command")
    options = read_json(claim)["options"]
    tuples = {name: tuple(options[name]) for name in ("condition", "captions")}
    read = options.get("read", {})
    options["read"] = ReadConfig(**{**read, "map_column": tuple(read.get("map_column", ()))})
    moved = {"source": source} if source else {}
    return DatasetConfig(**{**options, **tuples, "out": folder.parent, "name": folder.name, **moved})


def verify(config: VerifyConfig) -> None:
    """Print the verdict; raises CnlabError when files are damaged and ``repair`` is off."""
    damaged = damaged_files(config.folder)
    count = len(read_header(config.folder)["shards"]) + 1
    if not damaged and (config.folder / HEADER).exists():
        print(f"{config.folder}: {count} files, all as built")
        return
    verdict = f"{len(damaged)} of {count} files are missing or damaged: {', '.join(damaged) or 'the header'}"
    if not config.repair:
        raise CnlabError(
            f"{config.folder}: {verdict}; repair with cnlab-dataset verify --folder {config.folder} --repair"
        )
    print(f"{config.folder}: {verdict}; building them again")
    repair(config.folder, damaged, config.source)
    print(f"{config.folder}: repaired, all sums as before")
