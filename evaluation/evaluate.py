"""One evaluation from end to end: generate, score, write rows; what is there already is left alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from dask.system import cpu_count
from numpy.typing import NDArray

from evaluation.config import EvalConfig
from evaluation.generations import generate, load_painter, open_generated, order_for
from evaluation.judges.features import Features
from evaluation.judges.named import get_extractor
from evaluation.metrics.intervals import Estimate, mean_interval
from evaluation.metrics.normalised import normalised_score
from evaluation.metrics.sets import copied_share, geometry_estimates, set_estimates, set_names
from evaluation.results import append_rows, read_results
from evaluation.samples import EvalSet, Indices
from evaluation.sampling import Recipe, make_recipe, workers
from evaluation.scores import FLOOR, NORMALISED, Judges, PictureSet, ScoreStore, higher_is_better
from evaluation.subjects import Subject
from evaluation.targets import Folder, Target, arm_facts, resolve
from pipeline.contract.dataset import HEADER
from pipeline.contract.errors import CnlabError
from pipeline.contract.identity import code_version, fingerprint
from pipeline.contract.models import pick_device
from pipeline.contract.pictures import Pictures
from pipeline.fidelity import LOWER_IS_BETTER, main_measure

Values = dict[str, NDArray[np.float64]]  # metric -> (N,)


@dataclass
class Evaluation:
    """Everything one evaluation works with."""

    config: EvalConfig
    target: Target
    samples: EvalSet
    judges: Judges
    recipe: Recipe
    device: str

    @cached_property
    def folder(self) -> Folder | None:
        """The pictures of unknown origin that are judged; None where something else is."""
        where = self.target.folder
        return None if where is None else Folder(where, self.samples, self.config.match)

    @cached_property
    def store(self) -> ScoreStore:
        """Scores and features below the results folder."""
        return ScoreStore(self.config.results, self.judges)

    @cached_property
    def sets(self) -> list[PictureSet]:
        """What is scored: the subjects asked for, real pictures, and real ones through the autoencoder."""
        sets = [_real(self)] + ([_autoencoder(self)] if self.target.model else [])
        return sets + [self.picture_set(subject) for subject in self.target.subjects]

    def order(self, subject: Subject) -> Any:
        """The order of a sampled subject's pictures."""
        order = order_for(self.config.results, subject, self.samples, self.target.nets, self.recipe, self.device)
        return replace(order, groups=self.config.generation_groups)

    def picture_set(self, subject: Subject) -> PictureSet:
        """The pictures of a subject, read when they are asked for."""
        samples, whole = self.samples, np.arange(len(self.samples))
        facts = arm_facts(self.target, subject.arm)
        if folder := self.folder:
            own = {"folder": folder.identity}
            return PictureSet(subject, samples, folder.indices, (0,), own, facts, partial(folder.read, samples))
        order = self.order(subject)

        def read(own: Indices, group: int) -> Pictures:
            return open_generated(order, subject).pictures([samples.keys[i] for i in own], group)

        facts = facts | {"recipe": order.recipe.label}
        return PictureSet(subject, samples, whole, order.groups, order.identity, facts, read)

    @cached_property
    def train_features(self) -> Features | None:
        """Features of as many real training pictures: their distance is what two real sets differ by."""
        try:
            train = EvalSet(self.samples.folder, self.samples.conditions, len(self.samples), "train")
        except CnlabError:  # a dataset for evaluation only
            return None
        return self.store.features(_real(self, train), 0)

    @cached_property
    def training_features(self) -> Features | None:
        """Features of what the run under test was trained on; None where that is not at hand."""
        samples = _training_set(self)
        return None if samples is None else self.store.features(_real(self, samples), 0)


def _training_set(work: Evaluation) -> EvalSet | None:
    """The training samples of the run under test, as many as there are held-out ones at most; None where unknown."""
    run = work.target.runs[0] if len(work.target.runs) == 1 else None
    size = work.target.facts.get("subset_size")
    if run is None or not size or not (run.dataset / HEADER).is_file():
        return None
    try:
        return EvalSet(run.dataset, work.samples.conditions, min(int(size), len(work.samples)), "train")
    except CnlabError:
        return None


def _real(work: Evaluation, samples: EvalSet | None = None) -> PictureSet:
    own = samples or work.samples

    def read(indices: Indices, group: int) -> Pictures:
        return own.images(indices)

    return PictureSet(Subject("real"), own, np.arange(len(own)), (0,), "real", {}, read, floor=False)


def _autoencoder(work: Evaluation) -> PictureSet:
    samples, target = work.samples, work.target
    plain = replace(make_recipe("tabletop", {}), dtype=work.recipe.dtype)

    def read(indices: Indices, group: int) -> Pictures:
        painter = load_painter(target.model, (), plain, work.device)
        return painter.autoencode(samples.images(indices))

    identity = {"autoencoder": target.model_label, "dtype": plain.dtype}
    facts = arm_facts(target, "autoencoder")
    return PictureSet(
        Subject("autoencoder"), samples, np.arange(len(samples)), (0,), identity, facts, read, floor=False
    )


def prepare(config: EvalConfig) -> Evaluation:
    """Read what is to be judged and by what. Raises CnlabError for anything that does not fit."""
    from trainer.nets.models import resolve_clip

    target = resolve(config)
    target.claim(config.results, write=False)
    samples = EvalSet(target.dataset, target.conditions, config.images)
    device, options = pick_device(config.device), config.judges
    extractor = get_extractor(options.features, device)
    judges = Judges(resolve_clip(options.clip), extractor, device, options.condition_weights, options.evaluator)
    recipe = make_recipe(config.recipe.name, config.recipe.changes)
    recipe.strengths(max(len(target.controls), 1))
    return Evaluation(config, target, samples, judges, recipe, device)


def plan(work: Evaluation) -> list[str]:
    """What is going to happen, in lines for people."""
    samples, config, target = work.samples, work.config, work.target
    steps = f", step {target.facts['step']}" if target.facts.get("step") else ""
    lines = [
        f"subjects {', '.join(map(str, target.subjects))}{steps}, condition {samples.condition}, on {work.device}",
        f"samples  {len(samples)} eval samples of {samples.name}, {config.groups} picture(s) each",
        f"recipe   {work.recipe.label}: {work.recipe.steps} steps, guidance {work.recipe.guidance:g}",
        f"judges   {work.judges.clip_id}, {', '.join(work.judges.extractor.distance)}",
    ]
    if target.model:
        lines.insert(1, f"model    {target.model_label}")
    if len(samples) < config.images:
        lines.append(f"note     the eval split has {len(samples)} samples, fewer than --images {config.images}")
    lines += [f"note     fidelity is not measured: {reason}" for reason in work.judges.annotators(samples)[1]]
    if work.folder:
        lines += [f"note     {line}" for line in work.folder.notes(samples)]
    return lines


def generate_all(work: Evaluation) -> int:
    """Make the missing pictures of every sampled subject; returns how many."""
    work.target.claim(work.config.results, write=True)
    orders = [(work.order(subject), subject) for subject in work.target.subjects if subject.sampled]
    todo = sum(len(order.missing()) for order, _ in orders)
    if todo:
        work.judges.check()
    painted = 0
    count = work.config.workers or processes(work.device, todo)
    with workers(count, work.config.scheduler if todo else "") as executor:
        for order, subject in orders:
            painted += generate(order, subject, executor)
    return painted


def processes(device: str, blocks: int) -> int:
    """Local processes that paint so many blocks of pictures, where the user did not say.

    Each holds the model, and loads it for some seconds: never more than two, and one for a handful of blocks.
    """
    return min(2, cpu_count()) if device == "cpu" and blocks > 8 else 1


def score_all(work: Evaluation) -> int:
    """Write the rows that are not in the table yet; returns how many were written."""
    return sum(_write_rows(work, pictures, group) for pictures in work.sets for group in pictures.groups)


def _write_rows(work: Evaluation, pictures: PictureSet, group: int) -> int:
    """Compute and write the rows of one subject and group unless rows with the same fingerprint are there."""
    judges, own_group = work.judges, pictures.subject.sampled
    ceiling = work.target.model_label if pictures.floor else None
    decides = [pictures.fingerprint, pictures.keys, group, ceiling, judges.clip_id, judges.extractor.name]
    decides += [judges.version_of(""), judges.version_of(NORMALISED)]
    identity = fingerprint(decides)
    table = read_results(work.config.results)
    if ((table.run == str(pictures.subject)) & (table.fingerprint == identity)).any():
        return 0
    facts = {
        "run": str(pictures.subject),
        "dataset": work.samples.name,
        "condition": work.samples.condition,
        "gen_seed": group if own_group else None,
        "split": "eval",
        "fingerprint": identity,
        "commit": code_version()["commit"],
        "arm": pictures.subject.arm,
        "interval": "images",
        **pictures.facts,
    }
    estimates = estimate_all(work, pictures, group)
    append_rows(work.config.results, [row_of(metric, estimate, judges, facts) for metric, estimate in estimates])
    return len(estimates)


def row_of(metric: str, estimate: Estimate, judges: Judges, facts: dict[str, Any]) -> dict[str, Any]:
    """A row for `evaluation.results.append_rows`; ``facts`` fills the columns that a subject's rows share."""
    return {
        **facts,
        "metric": metric,
        "metric_version": judges.version_of(metric),
        "value": estimate.value,
        "ci_low": estimate.low,
        "ci_high": estimate.high,
        "n": estimate.n,
        "higher_is_better": higher_is_better(metric, judges.extractor),
    }


def estimate_all(work: Evaluation, pictures: PictureSet, group: int) -> list[tuple[str, Estimate]]:
    """(metric, value with interval) of one subject and group."""
    values = work.store.values(pictures, group)
    estimates = [(metric, mean_interval(scores)) for metric, scores in values.items()]
    estimates += _normalised(work, pictures, values)
    real = replace(_real(work), indices=pictures.indices)
    reference = work.train_features if pictures.subject.arm == "real" else work.store.features(real, 0)
    if reference is None:
        return estimates
    features, distance = work.store.features(pictures, group), work.judges.extractor.distance
    estimates += set_estimates(distance, features, reference).items()
    if pictures.subject.arm == "real":
        estimates += geometry_estimates(distance, features).items()
    if pictures.subject.arm == "control" and work.training_features is not None:
        copied = next(name for name in set_names(distance) if name.startswith("copied"))
        estimates.append((copied, copied_share(features, work.training_features, reference)))
    return estimates


def _normalised(work: Evaluation, pictures: PictureSet, values: Values) -> Iterable[tuple[str, Estimate]]:
    """The main measure of each condition, 0 at the subject's own floor and 1 at the autoencoder's."""
    if not pictures.floor or not work.target.model:
        return
    best = work.store.values(_autoencoder(work), 0)
    for condition, annotator in work.judges.annotators(work.samples)[0].items():
        measure = main_measure(annotator)
        name, sign = f"{condition}_{measure}", -1.0 if measure in LOWER_IS_BETTER else 1.0
        value, floor, ceiling = (sign * scores for scores in (values[name], values[name + FLOOR], best[name]))
        ceiling = ceiling[pictures.indices]
        if ceiling.mean() > floor.mean():  # else there is no scale to speak of
            yield name + NORMALISED, normalised_score(value, floor, ceiling)
