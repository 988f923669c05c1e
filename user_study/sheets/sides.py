"""What is compared: the pictures of a subject, by sample and picture group, wherever they come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.generations import MANIFEST
from pipeline.contract.errors import CnlabError
from pipeline.contract.files import read_json
from pipeline.contract.pictures import decode_image, read_picture
from trainer.run_folder import SUMMARY

if TYPE_CHECKING:
    from pipeline.contract.dataset import Triplets
    from pipeline.contract.pictures import Picture

ARMS = ("control", "shuffled", "prior")
REAL = "real"


@dataclass(frozen=True)
class Side:
    """One subject with its pictures.

    Attributes
    ----------
    name : str
        As in the results table: RUNID, RUNID/shuffled, RUNID/prior, folder:NAME, real.
    fingerprint : str
        Of what decides the pictures.
    places : frozenset or None
        (key, group) of every picture; None for real ones, which are there for every sample.
    read : callable
        (key, group) -> (H, W, 3) uint8.
    """

    name: str
    fingerprint: str
    places: frozenset[tuple[str, int]] | None
    read: Callable[[str, int], Picture]

    @property
    def run(self) -> str:
        """RUNID alone."""
        return self.name.split("/")[0]


def load_side(results: Path, name: str, dataset: Triplets) -> Side:
    """Open the pictures of a subject; raises CnlabError when they are missing, damaged, or of another dataset."""
    if name == REAL:
        return Side(REAL, dataset.fingerprint, None, _real(dataset))
    run, _, arm = name.partition("/")
    arm = arm or "control"
    if not run or arm not in ARMS:
        raise CnlabError(f"{name!r} is not RUNID, RUNID/shuffled, RUNID/prior or real")
    folder = results / "generations" / run / arm
    manifest = read_json(folder / MANIFEST)
    try:
        files = {(str(i["key"]), int(i.get("group", i["seed"]))): str(i["file"]) for i in manifest["images"]}
        fingerprint = str(manifest["fingerprint"])
    except (KeyError, TypeError) as error:
        raise CnlabError(f"{folder / MANIFEST} lacks {error}; delete the folder and generate again") from error
    for file in files.values():
        if Path(file).name != file:
            raise CnlabError(f"{folder / MANIFEST} names {file!r}, which is no plain file name")
    side = run if arm == "control" else f"{run}/{arm}"
    if manifest.get("dataset") != dataset.header.get("name"):
        raise CnlabError(
            f"{side} was generated from dataset {manifest.get('dataset')!r}, not from {dataset.folder} "
            f"({dataset.header.get('name')!r}); all sides and the maps have to come from one dataset"
        )
    if manifest.get("config", {}).get("dataset") not in (None, dataset.fingerprint):
        raise CnlabError(f"{side} was generated from {dataset.folder} before it changed; generate it again")
    return Side(side, fingerprint, frozenset(files), lambda key, group: read_picture(folder / files[key, group]))


def _real(dataset: Triplets) -> Callable[[str, int], Picture]:
    rows = {key: n for n, key in enumerate(dataset.table("eval", ["key"])["key"].to_pylist())}

    def read(key: str, group: int) -> Picture:
        row = dataset.rows("eval", ["image"], rows[key], rows[key] + 1).to_pylist()[0]
        return decode_image(row["image"]["bytes"], f"picture {key!r} of {dataset.folder}")

    return read


def matched(sides: tuple[Side, ...], keys: list[str]) -> dict[str, list[int]]:
    """Picture groups that every side has, by sample; the same key and group mean the same noise."""
    listed = [side.places for side in sides if side.places is not None]
    common = frozenset.intersection(*listed) if listed else frozenset((key, 0) for key in keys)
    groups: dict[str, list[int]] = {}
    for key, group in sorted(common):
        groups.setdefault(key, []).append(group)
    return groups


def condition_of(runs: Path, side: Side) -> str:
    """Condition that a side's run was trained on; empty where the run is not at hand or it is no run."""
    header = runs / side.run / SUMMARY
    return str(read_json(header).get("condition") or "") if header.exists() else ""
