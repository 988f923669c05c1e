"""Scoring pictures: edges against the condition map, CLIP score, distances to the real pictures; rows of the table."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.judges.features import Extractor, Features, extract
from evaluation.metrics.bootstrap import Estimate, mean_interval
from evaluation.metrics.clip_score import clip_scores
from evaluation.metrics.frechet import frechet_estimate
from evaluation.metrics.kernel import kernel_estimate
from evaluation.metrics.normalised import normalised_score
from evaluation.subjects import Samples
from pipeline.contract.clip import Clip, load_clip
from pipeline.contract.errors import CnlabError
from pipeline.contract.identity import sha256_file
from pipeline.contract.pictures import Pictures
from pipeline.fidelity import MAIN_EDGES, MAIN_OTHER, annotator_of, fidelity

VERSION = "1"


@dataclass(frozen=True)
class Judges:
    """The models that judge, loaded when first needed, and what they are called in the table."""

    clip_name: str
    extractor: Extractor
    cache: Path
    device: str = "cpu"

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
        if metric in self.extractor.distance:
            return f"{VERSION}/{self.extractor.name}"
        return VERSION


@dataclass(frozen=True)
class Scores:
    """What was measured on N pictures: per-sample numbers and features."""

    clip: NDArray[np.float64]  # (N,)
    fidelity: dict[str, NDArray[np.float64]]  # measure -> (N,); empty where it cannot be measured
    features: Features  # (N, D)


def fidelity_scores(pictures: Pictures, samples: Samples) -> dict[str, NDArray[np.float64]]:
    """`pipeline.fidelity.fidelity` to each sample's map; empty where it cannot be measured."""
    annotator, _ = annotator_of(samples.condition, samples.params, samples.weights)
    return {} if annotator is None else fidelity(pictures, samples.maps, samples.params, annotator)


def measure(pictures: Pictures, samples: Samples, judges: Judges) -> Scores:
    """Score pictures made for ``samples``, in their order."""
    if len(pictures) != len(samples):
        raise CnlabError(f"{len(pictures)} pictures for {len(samples)} samples")
    clip = clip_scores(judges.clip.images(pictures), judges.clip.texts(list(samples.texts)))
    return Scores(clip, fidelity_scores(pictures, samples), extract(pictures, judges.extractor, judges.cache))


def estimates(scores: Scores, condition: str, judges: Judges, reference: Features | None) -> dict[str, Estimate]:
    """Metric name -> value with interval. ``reference`` holds the features distances are taken to."""
    found = {"clip_score": mean_interval(scores.clip)}
    found |= {f"{condition}_{measure}": mean_interval(values) for measure, values in scores.fidelity.items()}
    if reference is not None:
        frechet, kernel = judges.extractor.distance
        found[frechet] = frechet_estimate(scores.features, reference)
        found[kernel] = kernel_estimate(scores.features, reference)
    return found


def normalised(control: Scores, shuffled: Scores, real: Scores, condition: str) -> dict[str, Estimate]:
    """The main measure of fidelity from the wrong map (0) to the real pictures (1); empty where there is no scale."""
    name = next((m for m in (MAIN_EDGES, MAIN_OTHER) if m in control.fidelity), "")
    if not name or real.fidelity[name].mean() <= shuffled.fidelity[name].mean():
        return {}
    value = normalised_score(control.fidelity[name], shuffled.fidelity[name], real.fidelity[name])
    return {f"{condition}_{name}_normalised": value}


def to_rows(found: dict[str, Estimate], judges: Judges, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows for `evaluation.results.append_rows`; ``facts`` fills the columns that all of them share."""
    return [
        {
            **facts,
            "metric": metric,
            "metric_version": judges.version_of(metric),
            "value": estimate.value,
            "ci_low": estimate.low,
            "ci_high": estimate.high,
            "n": estimate.n,
            "higher_is_better": metric not in judges.extractor.distance,
        }
        for metric, estimate in found.items()
    ]
