"""Measurements of pictures, one a picture and metric, kept in ``results/scores.parquet``; features beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evaluation.judges.features import Extractor, Features, extract
from evaluation.metrics.clip_score import clip_scores
from evaluation.metrics.sets import set_names
from evaluation.samples import EvalSet, Indices
from evaluation.subjects import Subject
from pipeline.conditions import Condition
from pipeline.contract.clip import Clip, load_clip
from pipeline.contract.files import atomic, read_json, write_json
from pipeline.contract.identity import fingerprint, sha256_file
from pipeline.contract.pictures import Pictures
from pipeline.fidelity import LOWER_IS_BETTER, annotator_of, fidelity, main_measure, measures_of

if TYPE_CHECKING:
    import pandas as pd

VERSION = "1"
NORMALISED_VERSION = "2"  # 1: floor from pictures sampled with wrong maps, ceiling of real pictures
FLOOR, NORMALISED, DIFFERENCE = "_floor", "_normalised", "_difference"  # ends of metric names
PART = 32  # pictures measured at a time, whatever --batch says: a number does not depend on it
TABLE = "scores.parquet"
DISTANCES = "distances.json"  # names of the two distances on the features of a folder
#: Columns of a part beside those that its subject gives to every row.
SCORE_COLUMNS = ("key", "gen_seed", "metric", "metric_version", "value")


@dataclass(frozen=True)
class Judges:
    """The models that judge, loaded when first needed, and what they are called in the table."""

    clip_name: str
    extractor: Extractor
    device: str = "cpu"
    weights: str = ""  # of the annotator, where it has any
    evaluator: str = ""  # annotator to run on pictures where it is not the maps' own

    @cached_property
    def clip(self) -> Clip:
        """The CLIP model."""
        return load_clip(self.clip_name, self.device, "--clip")

    @cached_property
    def clip_id(self) -> str:
        """Hub name, or the folder's name with the first digits of its weights' sha256."""
        folder = Path(self.clip_name)
        weights = folder / "model.safetensors"
        return f"{folder.name}-{sha256_file(weights)[:12]}" if weights.is_file() else self.clip_name

    def check(self) -> None:
        """Load every judge now; hours of pictures are not to end in a name that was mistyped."""
        _ = self.clip
        extract(np.zeros((1, 8, 8, 3), dtype=np.uint8), self.extractor)

    def version_of(self, metric: str) -> str:
        """What a value depends on beside the pictures: the convention and the judging model."""
        if metric == "clip_score":
            return f"{VERSION}/{self.clip_id}/100*max(cos,0)/no-prefix"
        if metric in set_names(self.extractor.distance):
            return f"{VERSION}/{self.extractor.name}"
        version = NORMALISED_VERSION if metric.endswith(NORMALISED) else VERSION
        named = "/".join(part for part in (self.evaluator, self.weights) if part)
        return f"{version}/{named}" if named else version

    def annotators(self, samples: EvalSet) -> tuple[dict[str, Condition], list[str]]:
        """Condition -> what measures it on pictures, and for each that nothing can measure the reason."""
        there: dict[str, Condition] = {}
        reasons = []
        for condition in samples.conditions:
            params = samples.maps(condition, np.arange(min(len(samples), 8)))[1]
            annotator, reason = annotator_of(condition, params, self.weights, self.evaluator)
            if annotator is None:
                reasons.append(reason)
            else:
                there[condition] = annotator
        return there, reasons


def higher_is_better(metric: str, extractor: Extractor) -> bool | None:
    """Whether a larger value of a metric of the table is a better one; None where neither is."""
    sets = set_names(extractor.distance)
    if metric in sets:
        return sets[metric]
    plain = metric.removesuffix(FLOOR)
    return metric.endswith(NORMALISED) or not any(plain.endswith(f"_{name}") for name in LOWER_IS_BETTER)


@dataclass(frozen=True)
class PictureSet:
    """Pictures of one subject and how to read them.

    ``indices`` are the samples that there are pictures of; ``identity`` decides the pictures; ``read`` takes indices
    and a generation group and gives (B, S, S, 3) uint8; ``floor``: score them against other samples' maps too.
    """

    subject: Subject
    samples: EvalSet
    indices: Indices
    groups: tuple[int, ...]
    identity: Any
    facts: dict[str, Any]  # columns of every row: model, recipe, subset_size ...
    read: Callable[[Indices, int], Pictures]
    floor: bool = True

    @property
    def fingerprint(self) -> str:
        """Of what decides the pictures and what they are judged against."""
        return fingerprint([self.identity, self.samples.fingerprint, list(self.samples.conditions)])

    @property
    def keys(self) -> list[str]:
        """Keys of the samples, in order."""
        return [self.samples.keys[index] for index in self.indices]


class ScoreStore:
    """``scores.parquet/``: a part a subject, a row a picture and metric; parts grow and are never thrown away."""

    def __init__(self, results: Path, judges: Judges) -> None:
        self.folder, self.features_folder, self.judges = results / TABLE, results / "features", judges

    def path(self, pictures: PictureSet) -> Path:
        """The part of a subject."""
        name = str(pictures.subject).replace("/", "-").replace(":", "-")
        return self.folder / f"{name}-{pictures.fingerprint[:12]}.parquet"

    def scores(self, pictures: PictureSet) -> pd.DataFrame:
        """Scores of every picture by the metrics of these judges, measured where they are not there yet.

        Returns the whole part with `SCORE_COLUMNS` and the subject's columns.
        """
        import pandas as pd

        there = self._read(pictures)
        annotators, _ = self.judges.annotators(pictures.samples)
        metrics = self._metrics(pictures, annotators)
        complete = _have(there, metrics)
        new: list[pd.DataFrame] = []
        for group in pictures.groups:
            todo = np.array(
                [i for i in pictures.indices if (pictures.samples.keys[i], group) not in complete], dtype=np.intp
            )
            if not len(todo):
                continue
            path, features = self._features(pictures, group)
            both = np.array_equal(todo, pictures.indices[len(features) :])
            parts = [features]
            for own in pictures.samples.parts(PART, todo):
                images = pictures.read(own, group)
                values = measure(pictures, images, own, self.judges, annotators)
                new.append(_rows(pictures, own, group, values, metrics))
                if both:  # the pictures are at hand: decoding or painting them again costs more
                    parts.append(extract(images, self.judges.extractor))
            if both:
                _write_features(path, parts)
        if new:
            columns = ["key", "gen_seed", "metric", "metric_version"]
            there = pd.concat([there, *new] if len(there) else new, ignore_index=True)
            there = there.drop_duplicates(columns, keep="last").sort_values(columns, ignore_index=True)
            with atomic(self.path(pictures)) as temporary:
                there.to_parquet(temporary, index=False)
        return there

    def values(self, pictures: PictureSet, group: int) -> dict[str, NDArray[np.float64]]:
        """Metric -> (N,) in the order of the set's samples, by these judges."""
        table = self.scores(pictures)
        table = table[table.gen_seed == group]
        annotators, _ = self.judges.annotators(pictures.samples)
        out = {}
        for metric, version in self._metrics(pictures, annotators).items():
            own = table[(table.metric == metric) & (table.metric_version == version)].set_index("key").value
            out[metric] = own.loc[pictures.keys].to_numpy(np.float64)
        return out

    def features(self, pictures: PictureSet, group: int) -> Features:
        """(N, D) float32, kept by pictures and network; those that are missing are computed and added."""
        path, there = self._features(pictures, group)
        missing = pictures.indices[len(there) :]
        if not len(missing):
            return there[: len(pictures.indices)]
        parts = pictures.samples.parts(PART, missing)
        return _write_features(
            path, [there, *(extract(pictures.read(own, group), self.judges.extractor) for own in parts)]
        )

    def _features(self, pictures: PictureSet, group: int) -> tuple[Path, Features]:
        """Where the features of a set and group are kept, and those that are there."""
        extractor = self.judges.extractor
        prefix = np.array_equal(pictures.indices, np.arange(len(pictures.indices)))
        folder = self.features_folder / extractor.name
        if not (folder / DISTANCES).is_file():
            write_json(folder / DISTANCES, list(extractor.distance))
        keys = None if prefix else pictures.keys
        path = folder / features_file(fingerprint(pictures.identity), pictures.samples.fingerprint, group, keys)
        return path, _read_features(path, extractor.width)

    def _metrics(self, pictures: PictureSet, annotators: dict[str, Condition]) -> dict[str, str]:
        """Metric -> version, of what is measured picture by picture."""
        names = ["clip_score"]
        for condition, annotator in annotators.items():
            names += [f"{condition}_{name}" for name in measures_of(annotator, pictures.samples.size)]
            if pictures.floor:
                names.append(f"{condition}_{main_measure(annotator)}{FLOOR}")
        return {name: self.judges.version_of(name) for name in names}

    def _read(self, pictures: PictureSet) -> pd.DataFrame:
        import pandas as pd

        path = self.path(pictures)
        try:
            return pd.read_parquet(path)
        except (OSError, ValueError):  # absent or damaged: measured again
            return pd.DataFrame({name: [] for name in SCORE_COLUMNS})


def measure(
    pictures: PictureSet, images: Pictures, own: Indices, judges: Judges, annotators: dict[str, Condition]
) -> dict[str, NDArray[np.float64]]:
    """Metric -> (B,) for ``images`` (B, S, S, 3) uint8 of the samples ``own``."""
    samples = pictures.samples
    scores = {"clip_score": clip_scores(judges.clip.images(images), judges.clip.texts([samples.texts[i] for i in own]))}
    for condition, annotator in annotators.items():
        maps, params = samples.maps(condition, own)
        scores |= {f"{condition}_{k}": v for k, v in fidelity(images, maps, params, annotator).items()}
        if pictures.floor:
            maps, params = samples.maps(condition, samples.other[own])
            name = main_measure(annotator)
            scores[f"{condition}_{name}{FLOOR}"] = fidelity(images, maps, params, annotator, (name,))[name]
    return scores


def _have(table: pd.DataFrame, metrics: dict[str, str]) -> set[tuple[str, int]]:
    """(key, group) of which every metric is there in its version."""
    if not len(table):
        return set()
    current = table[table.metric_version == table.metric.map(metrics)]
    counts = current.groupby(["key", "gen_seed"]).metric.nunique()
    index: list[tuple[Any, Any]] = list(counts[counts == len(metrics)].index)
    return {(str(key), int(group)) for key, group in index}


def _rows(
    pictures: PictureSet, own: Indices, group: int, values: dict[str, NDArray[np.float64]], metrics: dict[str, str]
) -> pd.DataFrame:
    import pandas as pd

    keys = [pictures.samples.keys[i] for i in own]
    return pd.concat(
        pd.DataFrame(
            {
                "run": str(pictures.subject),
                "arm": pictures.subject.arm,
                "dataset": pictures.samples.name,
                "eval_fingerprint": pictures.samples.fingerprint,
                "condition": pictures.samples.condition,
                **{name: pictures.facts.get(name) for name in ("model", "recipe")},
                "step": pictures.facts.get("step") if pictures.subject.arm in ("control", "shuffled") else None,
                "pictures": fingerprint(pictures.identity),
                "key": keys,
                "gen_seed": group,
                "metric": metric,
                "metric_version": version,
                "value": values[metric],
            }
        ).astype({"model": "string", "recipe": "string", "step": "Int64"})
        for metric, version in metrics.items()
    )


def features_file(pictures: str, split: str, group: int, keys: list[str] | None = None) -> str:
    """File of the features of pictures (fingerprint) of a split; row i is sample i, or the i-th of ``keys``."""
    return f"{fingerprint([pictures, split, keys])[:24]}-{group}.npy"


def read_features(results: Path, names: Sequence[str]) -> Iterator[tuple[tuple[str, str], list[Features]]]:
    """For each network by which all the files ``names`` are there: its (Frechet, kernel) metrics and the features."""
    for folder in sorted(path.parent for path in (results / "features").glob(f"*/{DISTANCES}")):
        if all((folder / name).is_file() for name in names):
            frechet, kernel = read_json(folder / DISTANCES)
            yield (frechet, kernel), [np.load(folder / name, allow_pickle=False) for name in names]


def _write_features(path: Path, parts: list[Features]) -> Features:
    """Keep the rows of ``parts``, one after the other; returns them."""
    features = np.concatenate(parts)
    with atomic(path) as temporary, temporary.open("wb") as handle:
        np.save(handle, features, allow_pickle=False)
    return features


def _read_features(path: Path, width: int) -> Features:
    """Cached features; an empty array when absent or damaged, for then they are computed again."""
    try:
        there = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return np.empty((0, width), np.float32)
    whole = isinstance(there, np.ndarray) and there.ndim == 2 and there.shape[1] == width and there.dtype == np.float32
    return there if whole else np.empty((0, width), np.float32)


#: What tells the sets of pictures of one subject apart.
PLACE = ("run", "eval_fingerprint", "condition", "model", "recipe", "step")


def read_scores(results: Path) -> pd.DataFrame:
    """All parts of ``scores.parquet/``; empty when there are none.

    Where pictures were replaced by others of the same place (a folder that changed, a run that was trained anew) only
    the scores of the last ones count, as in the results.
    """
    import pandas as pd

    paths = sorted((results / TABLE).glob("*.parquet"), key=lambda path: (path.stat().st_mtime_ns, path.name))
    if not paths:
        return pd.DataFrame({name: [] for name in SCORE_COLUMNS})
    table = pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)
    if "step" not in table:
        table["step"] = pd.array([pd.NA] * len(table), dtype="Int64")
    last = table.groupby(list(PLACE), dropna=False).pictures.transform("last")
    return table[table.pictures == last].reset_index(drop=True)
