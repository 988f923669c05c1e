"""What a command's options ask to be judged: nets, base model, dataset and the columns that their rows carry."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.config import EvalConfig
from evaluation.generations import file_of
from evaluation.samples import EvalSet, Indices
from evaluation.subjects import Arm, Subject, plain_name
from pipeline.contract.dataset import HEADER, Triplets
from pipeline.contract.errors import CnlabError
from pipeline.contract.files import read_json, write_json
from pipeline.contract.identity import canonical, fingerprint, sha256_file
from pipeline.contract.pictures import Picture, Pictures, stack_images
from pipeline.sources.base import Rejected
from pipeline.sources.columns import FILE_NAMES, IMAGE_NAMES, ReadConfig, pick
from pipeline.sources.decode import decode, is_converted
from pipeline.sources.files import is_image
from pipeline.sources.metadata import Names, read_rows
from trainer.nets.base import model_folder, model_identity
from trainer.run_folder import SUMMARY, Run, open_run

LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif")
KEY_NAMES = ("key", "id", "__key__")  # columns of --match
RUN_COLUMNS = ("subset_size", "train_seed", "step", "variant")


@dataclass(frozen=True)
class Target:
    """What is judged, with everything that was left open decided.

    ``model`` is "" where no base model is known (a folder of pictures); ``facts`` are columns of the net's rows.
    """

    subjects: tuple[Subject, ...]
    dataset: Path
    conditions: tuple[str, ...]
    model: str = ""
    model_label: str = ""
    controls: tuple[Path | str, ...] = ()
    weights: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    runs: tuple[Run, ...] = ()
    folder: Path | None = None

    def claim(self, results: Path, write: bool) -> None:
        """Refuse a name that another net or folder has in ``results``; ``write``: hold it from now on.

        A run owns its name and a base model's rows carry its weights; a ControlNet that no run made is what its weights
        are, a run or a folder is where it lies (a run may go on, pictures may change: then the last ones count).
        """
        name = self.subjects[0].name
        if not name.startswith(("control:", "folder:")):
            return
        nets = [
            next((str(run.folder) for run in self.runs if Path(where).is_relative_to(run.folder)), weights)
            for where, weights in zip(self.controls, self.weights, strict=True)
        ]
        own = fingerprint(nets or str(self.folder and self.folder.resolve()))
        path = results / "subjects" / f"{name.replace(':', '-')}.json"
        if not path.is_file():
            if write:
                write_json(path, {"name": name, "identity": own})
        elif read_json(path).get("identity") != own:
            raise CnlabError(f"{results} knows another {name}; give this one a name of its own with --name NAME")

    @property
    def nets(self) -> dict[str, Any]:
        """For `evaluation.generations.order_for`."""
        return {
            "model": self.model,
            "model_label": self.model_label,
            "controls": list(self.controls),
            "weights": list(self.weights),
        }


def resolve(config: EvalConfig) -> Target:
    """Decide what the options leave open; raises CnlabError for what is not there or does not fit."""
    if config.run is not None or config.control:
        return _nets(config)
    dataset = _dataset(config, [])
    conditions = config.condition or (Triplets(dataset).condition,)
    model, label = _model(config, [])
    if config.subject == "prior":
        if not model:
            raise CnlabError("--subject prior needs --model: tabletop, a diffusers folder or a hub name")
        subject = Subject(
            "prior", f"model:{config.name or plain_name(model if config.model == 'tabletop' else config.model)}"
        )
        return Target((subject,), dataset, conditions, model, label)
    folder = Path(config.subject.removeprefix("folder:"))
    if not folder.is_dir():
        raise CnlabError(f"{folder} is not a folder; give --subject folder:PATH with pictures in it")
    subject = Subject("folder", f"folder:{config.name or plain_name(str(folder.resolve()))}")
    return Target((subject,), dataset, conditions, model, label, folder=folder)


def _nets(config: EvalConfig) -> Target:
    named = (str(config.run),) if config.run is not None else config.control
    runs = [open_run(Path(n)) if config.run is not None or (Path(n) / SUMMARY).is_file() else None for n in named]
    own = [run for run in runs if run is not None]
    dataset = _dataset(config, own)
    conditions = config.condition or tuple(str(run.fact("condition")) for run in own)
    if len(conditions) != len(named):
        if conditions or len(named) > 1:
            raise CnlabError(
                f"{len(named)} ControlNets and {len(conditions)} conditions; give --condition one name a net"
            )
        conditions = (Triplets(dataset).condition,)
    model, label = _model(config, own)
    if not model:
        raise CnlabError("a ControlNet needs its base model; give --model: tabletop, a diffusers folder or a hub name")
    controls = tuple(
        run.checkpoint if run else _control(name, config.results) for name, run in zip(named, runs, strict=True)
    )
    name = own[0].id if config.run is not None else "control:" + (config.name or "+".join(map(plain_name, named)))
    single = own[0] if len(named) == 1 and own else None
    facts = _training_facts(single) if single else {}
    subjects = tuple(Subject(arm, name) for arm in config.arms)
    weights = tuple(_control_identity(where) for where in controls)
    return Target(subjects, dataset, conditions, model, label, controls, weights, facts, tuple(own))


def _training_facts(run: Run) -> dict[str, Any]:
    """Columns of a run's rows: what it was trained on and how."""
    facts = {column: run.fact(column) for column in RUN_COLUMNS}
    if not (run.dataset / HEADER).is_file():  # it was trained elsewhere
        return facts
    header = Triplets(run.dataset).header
    doses = header.get("damage", {}).get("faults", {})
    if doses:
        facts |= {"fault": "+".join(sorted(doses)), "dose": next(iter(doses.values())) if len(doses) == 1 else None}
    selection = header.get("selection")
    return facts | (
        {"selection": selection if isinstance(selection, str) else canonical(selection)} if selection else {}
    )


def _dataset(config: EvalConfig, runs: list[Run]) -> Path:
    folder = config.dataset or (runs[0].dataset if runs else None)
    if folder is None:
        raise CnlabError("which pictures? give --dataset data/NAME")
    if not folder.is_dir():
        raise CnlabError(f"{folder} does not exist; say where the dataset is with --dataset data/NAME")
    return folder


def _model(config: EvalConfig, runs: list[Run]) -> tuple[str, str]:
    """Folder of the base model, and the label in the table: NAME-SHA256[:12], or NAME@COMMIT[:12] of the hub's."""
    name, options = config.model, config.base
    if not name and not runs:
        return "", ""
    if not name:
        if len({(run.model, run.base) for run in runs}) > 1:
            raise CnlabError("these runs have different base models; say which with --model")
        name, options = runs[0].model, replace(runs[0].base, **options.chosen)
    where, identity = model_folder(name, options), model_identity(name, options)
    if not config.model and not config.base.chosen:
        for run in runs:
            _check_unchanged(run, identity)
    first, _, further = identity.removeprefix("hub:").partition(" ")
    own, _, commit = first.partition("@")
    if not identity.startswith("hub:"):
        return (
            where,
            f"{plain_name(where if name == 'tabletop' else name)}-{(fingerprint(identity) if further else own)[:12]}",
        )
    label = f"{own}@{commit[:12]}" if commit else own
    return where, f"{label}-{fingerprint(identity)[:12]}" if further else label


def _check_unchanged(run: Run, identity: str) -> None:
    """Raise CnlabError where the base model that a run names is not what it was trained on any more."""
    trained = run.model_identity
    if trained and not identity.startswith("hub:") and identity != trained:
        shipped = " (an earlier version of this package shipped it)" if run.model == "tabletop" else ""
        raise CnlabError(
            f"run {run.id} was trained on {run.model} {trained[:12]}{shipped}, which is {identity[:12]} now; "
            f"give --model FOLDER with its weights of then, or --model {run.model} for those of now"
        )


def _control(name: str, results: Path) -> Path | str:
    """A ControlNet by folder or hub name; a single file is brought into a folder below ``results`` first."""
    path = Path(name)
    if not path.is_file():
        return path if path.is_dir() else name
    from trainer.exchange.single_file import from_single_file

    folder = results / "controls" / f"{plain_name(path.stem)}-{sha256_file(path)[:12]}"
    return folder if folder.is_dir() else from_single_file(path, folder)


def _control_identity(where: Path | str) -> str:
    """sha256 over a ControlNet's own weights (a checkpoint also holds optimizer state), or its hub name."""
    folder = Path(where)
    if not folder.is_dir():
        return f"hub:{where}"
    files = sorted(folder.glob("diffusion_pytorch_model*.safetensors")) + sorted(folder.glob("unet/*.safetensors"))
    if not files:
        raise CnlabError(f"{folder} holds no ControlNet (diffusion_pytorch_model.safetensors); give another --control")
    return fingerprint({file.relative_to(folder).as_posix(): sha256_file(file) for file in files})


class Folder:
    """Pictures of unknown origin, each matched to a sample and read as the pipeline reads photographs.

    By the CSV ``match`` (columns ``file`` and ``key``); else a picture belongs to the sample whose key is its path or
    name without the suffix, whose key's last part is, or whose hash (as generated pictures are called) is.
    """

    def __init__(self, folder: Path, samples: EvalSet, match: Path | None) -> None:
        """Raises CnlabError when fewer than two pictures match, or the CSV names what is not there."""
        self.folder = folder
        files = sorted(p for p in folder.rglob("*") if is_image(p.name) and p.is_file())
        self.files = _by_csv(match, files, folder, samples) if match else _by_name(files, folder, samples)
        self.indices: Indices = np.array(sorted(samples.position[key] for key in self.files), dtype=np.intp)
        self.stray = len(files) - len(self.files)
        if len(self.files) < 2:
            way = f"see that {match} names them" if match else "name them KEY.png, or give --match CSV (file,key)"
            raise CnlabError(
                f"{len(self.files)} of {len(files)} pictures in {folder} belong to the first "
                f"{len(samples)} samples of the eval split (such as {samples.keys[0]!r}), at least 2 must; {way}"
            )
        self.lossy = sum(path.suffix.lower() in LOSSY for path in self.files.values())
        self.converted = sum(map(is_converted, self.files.values()))
        files_by_key = {key: sha256_file(path) for key, path in self.files.items()}
        # until 2026-11-28 transparency, turns and profiles were passed over; scores of other pictures stay as they are
        self.identity = fingerprint(files_by_key | ({"": "as photographs"} if self.converted else {}))

    def notes(self, samples: EvalSet) -> list[str]:
        """What was assumed about the folder, in lines for people."""
        lines = [f"{len(self.files)} of {len(samples)} samples have a picture in {self.folder}"]
        if self.stray:
            lines.append(f"{self.stray} pictures there match no sample and are left out")
        if self.lossy:
            lines.append(f"{self.lossy} are JPEG or of its kind: distances measure its damage too")
        if self.converted:
            lines.append(
                f"{self.converted} are read as photographs are: on white where transparent, turned as their EXIF says, "
                "colours to sRGB"
            )
        return lines

    def read(self, samples: EvalSet, own: Indices, group: int) -> Pictures:
        """Pictures in the order of ``own``; another size than the samples' raises CnlabError."""
        return stack_images([self.picture(samples.keys[i], samples.size) for i in own], str(self.folder), 1)

    def picture(self, key: str, size: int) -> Picture:
        """The picture of a sample; raises CnlabError where it cannot be read or is not ``size`` pixels square."""
        path = self.files[key]
        try:
            image, width, height, _ = decode(path.read_bytes(), size)
        except (OSError, Rejected) as error:
            reason = f"{error.reason}: {error.detail}" if isinstance(error, Rejected) else str(error)
            raise CnlabError(f"{path} cannot be read ({reason}); mend it or move it away") from error
        if (width, height) != (size, size):
            raise CnlabError(
                f"{path} is {width}x{height}, the dataset's pictures are {size}x{size}; scale them first, with the "
                "filter of your choice"
            )
        return image


def _by_name(files: list[Path], folder: Path, samples: EvalSet) -> dict[str, Path]:
    names: dict[str, set[str]] = {}
    for key in samples.keys:
        for name in {key, key.replace("/", "-"), Path(key).with_suffix("").as_posix(), Path(key).stem, plain_name(key)}:
            names.setdefault(name, set()).add(key)
        names.setdefault(Path(file_of(key, 0)).stem, set()).add(key)
    matched: dict[str, Path] = {}
    advice = "give --match CSV with the columns file and key"
    for path in files:
        place = path.relative_to(folder).with_suffix("").as_posix()  # a key may be a path: so may its picture's name
        keys = names.get(place) or names.get(path.stem, set())
        keys = keys & {place, path.stem} or keys  # a whole key before a part of others
        if len(keys) > 1:
            raise CnlabError(f"{path} may belong to {' or '.join(sorted(keys)[:3])}; {advice}")
        for key in keys:
            if matched.setdefault(key, path) != path:
                raise CnlabError(f"{path} and {matched[key]} both match {key!r}; {advice}")
    return matched


def _by_csv(match: Path, files: list[Path], folder: Path, samples: EvalSet) -> dict[str, Path]:
    """Key -> picture; rows of samples that are not used are passed over."""
    if not match.is_file():
        raise CnlabError(f"{match} does not exist; --match takes a CSV with the columns file and key")
    rows = read_rows(match, ReadConfig())
    columns = list(dict.fromkeys(name for row in rows for name in row))
    file, key = pick(columns, (*FILE_NAMES, *IMAGE_NAMES)), pick(columns, KEY_NAMES)
    if not file or not key:
        raise CnlabError(f"{match} lacks the columns file and key; it has {', '.join(columns) or 'no rows'}")
    names = Names(folder, [path.relative_to(folder).as_posix() for path in files])
    matched: dict[str, Path] = {}
    for number, row in enumerate(rows, start=1):
        where, sample = f"{match}, row {number}", str(row[key] or "").strip()
        name = names.find(row[file], "")
        if name is None:
            raise CnlabError(f"{where} names {row[file]!r}, which is no picture in {folder}; mend or delete the row")
        if not sample:
            raise CnlabError(f"{where}: {key} is empty; fill it in or delete the row")
        path = folder / name
        if sample in samples.position and matched.setdefault(sample, path) != path:
            raise CnlabError(f"{where}: {sample!r} has a picture already, {matched[sample]}")
    return matched


def arm_facts(target: Target, arm: Arm) -> dict[str, Any]:
    """Columns that a row of an arm carries: those of the run for its arms, the model where one has part in it."""
    own = dict(target.facts) if arm in ("control", "shuffled", "prior") else {}
    known = arm in ("control", "shuffled", "prior", "autoencoder")
    return own | {"model": target.model_label if known and target.model_label else None}
