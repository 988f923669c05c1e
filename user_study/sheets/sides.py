"""What is compared: the pictures of a subject, by sample and picture group, wherever they come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.generations import find_generated
from evaluation.samples import EvalSet, split_fingerprint
from evaluation.subjects import plain_name
from evaluation.targets import Folder
from pipeline.contract.errors import CnlabError
from pipeline.contract.pictures import decode_image
from trainer.run_folder import read_summary

if TYPE_CHECKING:
    from pipeline.contract.dataset import Triplets
    from pipeline.contract.pictures import Picture

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
    if name.startswith("folder:"):
        return _folder(Path(name.removeprefix("folder:")), dataset)
    generated = find_generated(results, name)
    manifest, header = generated.manifest, dataset.header
    if manifest.get("dataset") != header["name"]:
        raise CnlabError(
            f"{generated.subject} was generated from dataset {manifest.get('dataset')!r}, not from {dataset.folder} "
            f"({header['name']!r}); all sides and the maps have to come from one dataset"
        )
    of = manifest.get("config", {}).get("dataset")
    if isinstance(of, str) and of not in (dataset.fingerprint, split_fingerprint(dataset)):
        raise CnlabError(
            f"{generated.subject} was generated from {dataset.folder} before it changed; generate it again"
        )
    places = frozenset((str(entry["key"]), int(entry["group"])) for entry in manifest["images"])
    return Side(generated.subject, generated.fingerprint, places, generated.picture)


def _folder(path: Path, dataset: Triplets) -> Side:
    """Anybody's pictures, matched to samples by name as the evaluation does."""
    if not path.is_dir():
        raise CnlabError(f"{path} is not a folder; give folder:PATH with pictures in it")
    samples = EvalSet(dataset.folder, dataset.header["conditions"][:1], dataset.count("eval"))
    pictures = Folder(path, samples, None)
    name = f"folder:{plain_name(str(path.resolve()))}"
    places = frozenset((key, 0) for key in pictures.files)
    return Side(name, pictures.identity, places, lambda key, group: pictures.picture(key, samples.size))


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
    return str(read_summary(runs / side.run).get("condition") or "")
