"""The folder ``runs/ID``: names of its files and the one reader; free of torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.contract.errors import CnlabError, first_line
from pipeline.contract.files import read_json
from trainer.nets.base import BaseOptions, options_of

if TYPE_CHECKING:  # a command line's help is not to wait for it
    import pandas as pd

CONFIG, SUMMARY, CONVERGENCE = "config.json", "summary.json", "convergence.json"
LOG, VALIDATION = "log.jsonl", "validation.parquet"
SAMPLES, CHECKPOINTS, BOARD = "samples", "checkpoints", "tensorboard"
SIGNED = frozenset({"inpaint"})  # conditions whose masked pixels, stored as (0, 0, 0), are fed as -1
STATE = "state.json"  # of a checkpoint, written last
COLUMNS = ("step", "images", "metric", "arm", "value", "ci_low", "ci_high", "n")  # of validation.parquet


@dataclass(frozen=True)
class Run:
    """A finished training run: `summary.json` and the config beside it."""

    folder: Path
    config: dict[str, Any]
    summary: dict[str, Any]

    @property
    def id(self) -> str:
        """Name of the run."""
        return self.folder.name

    @property
    def checkpoint(self) -> Path:
        """Folder of the trained ControlNet."""
        return self.folder / str(self.summary["checkpoint"])

    @property
    def model(self) -> str:
        """Path or hub name of the prior."""
        model = self.config["model"]
        return str(model["path"] if isinstance(model, dict) else model)

    @property
    def base(self) -> BaseOptions:
        """What else decides the prior; a hub model is pinned to the commit that the run was trained on."""
        return options_of(self.config["model"])

    @property
    def model_identity(self) -> str:
        """`trainer.nets.base.model_identity` of the prior it was trained on; "" where that is not recorded."""
        model = self.config["model"]
        return str(model.get("sha256", "")) if isinstance(model, dict) else ""

    @property
    def dataset(self) -> Path:
        """Folder of the dataset it was trained on."""
        return Path(str(self.config["dataset"]["path"]))

    def fact(self, name: str) -> Any:
        """A field of the summary, for the columns of a result row."""
        return self.summary.get(name)


def open_run(folder: Path) -> Run:
    """Read a run; one that is absent, unfinished or damaged raises CnlabError."""
    folder = folder.resolve()
    if not (folder / SUMMARY).is_file():
        raise CnlabError(f"{folder} is not a finished run (no {SUMMARY}); run make train first")
    header = read_json(folder / CONFIG)
    config = {**header.get("config", {}), **header}  # options, and above them the records of what they resolved to
    summary = read_json(folder / SUMMARY)
    for name, where, required in (
        (CONFIG, config, ("model", "dataset")),
        (SUMMARY, summary, ("checkpoint", "fingerprint", "condition", "step")),
    ):
        missing = [key for key in required if key not in where]
        if missing:
            raise CnlabError(f"{folder / name} lacks {', '.join(missing)}; train this run again")
    run = Run(folder, config, summary)
    if not run.checkpoint.is_dir():
        raise CnlabError(f"{run.checkpoint} does not exist; train run {run.id} again")
    return run


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a run, whole; empty where there is none. Damage raises CnlabError."""
    try:
        return _object(folder / CONFIG)
    except CnlabError as error:
        raise damaged_config(folder, "it is not a JSON object") from error


def damaged_config(folder: Path, why: str) -> CnlabError:
    """What to say of a run whose ``config.json`` cannot be used: without it nobody knows what was trained."""
    saved = list(checkpoints(folder).values())
    rescue = f"; what it trained is safe: cnlab-train export --run {saved[-1]} --out FOLDER" if saved else ""
    return CnlabError(
        f"{folder / CONFIG} is damaged ({why}), so the run cannot be continued; put a copy of it back, choose another "
        f"--name, or delete {folder}{rescue}"
    )


def read_summary(folder: Path) -> dict[str, Any]:
    """``summary.json``; empty while the run is not finished. Damage raises CnlabError."""
    return _object(folder / SUMMARY)


def read_convergence(folder: Path) -> dict[str, Any]:
    """The verdict on the run (``convergence.json``); empty before the first one. Damage raises CnlabError."""
    return _object(folder / CONVERGENCE)


def is_finished(folder: Path) -> bool:
    """Whether the run is complete: its summary, written last, can be read, and the checkpoint in it is there."""
    try:
        checkpoint = str(read_summary(folder).get("checkpoint", ""))
    except CnlabError:
        return False
    return bool(checkpoint) and (folder / checkpoint).is_dir()


def flat_options(record: Mapping[str, Any]) -> dict[str, Any]:
    """Options in a run's ``config.json``, those of groups beside the others, under their own names."""
    options: dict[str, Any] = {}
    for name, value in record.get("config", {}).items():
        options |= value if isinstance(value, dict) else {name: value}
    return options


def log_lines(folder: Path) -> list[dict[str, Any]]:
    """Lines of ``log.jsonl``, in order; one that a kill cut short, and what follows it, is left out."""
    path, lines = folder / LOG, []
    for text in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
            lines.append({**line, "step": int(line["step"])})
        except (ValueError, KeyError, TypeError):
            break
    return lines


def read_log(folder: Path) -> pd.DataFrame:
    """`log_lines` as a table; empty where there is no log."""
    import pandas as pd

    return pd.DataFrame(log_lines(folder))


def read_validation(folder: Path) -> pd.DataFrame:
    """``validation.parquet`` (`COLUMNS`); empty before the first validation. Damage raises CnlabError."""
    import pandas as pd

    path = folder / VALIDATION
    if not path.exists():
        return pd.DataFrame(columns=list(COLUMNS))
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise CnlabError(
            f"{path} is damaged ({first_line(error)}); put a copy of it back, or delete it: the run then goes on, "
            "without the validations up to its newest checkpoint"
        ) from error


def feeds_signed(control: str | Path, condition: str) -> bool:
    """Whether a ControlNet takes -1 in masked pixels: all of such conditions do but runs of earlier versions."""
    run_dir = Path(control).parent.parent
    if condition not in SIGNED or not (run_dir / CONFIG).is_file():
        return condition in SIGNED
    return bool(read_summary(run_dir).get("signed_hint", False))


def grid_path(folder: Path, step: int) -> Path:
    """The grid of sample pictures after ``step`` steps."""
    return folder / SAMPLES / f"step-{step:07d}.png"


def checkpoint_path(folder: Path, step: int) -> Path:
    """The checkpoint of ``step`` steps."""
    return folder / CHECKPOINTS / f"step-{step:07d}"


def checkpoints(folder: Path) -> dict[int, Path]:
    """Step -> folder of every checkpoint of a run, ascending."""
    places = [p for p in (folder / CHECKPOINTS).glob("step-*") if p.name[5:].isdecimal() and p.is_dir()]
    return {int(place.name[5:]): place for place in sorted(places)}


def _object(path: Path) -> dict[str, Any]:
    value = read_json(path) if path.is_file() else {}
    if not isinstance(value, dict):
        raise CnlabError(f"{path} is not a JSON object")
    return value
