"""One evaluation from end to end: generate, score, write rows; what is there already is left alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from evaluation.config import EvalConfig
from evaluation.generations import folder_of, generate, identity, load_generated
from evaluation.judges.features import Features, extract, inception_extractor, lite0_extractor
from evaluation.metrics.bootstrap import Estimate
from evaluation.results import append_rows, read_results
from evaluation.sampling import Painter, Recipe
from evaluation.scores import Judges, Scores, estimates, measure, normalised, to_rows
from evaluation.subjects import Samples, load_samples
from pipeline.contract.errors import CnlabError
from pipeline.contract.identity import code_version, fingerprint
from pipeline.contract.models import pick_device
from pipeline.contract.pictures import Pictures
from pipeline.fidelity import annotator_of
from trainer.run_folder import Run, open_run


@dataclass
class Evaluation:
    """Everything one evaluation works with. Expensive parts are made when first asked for."""

    config: EvalConfig
    run: Run
    samples: Samples
    judges: Judges
    device: str
    jobs: dict[str, dict[str, Any]]  # arm -> what its pictures depend on

    def __post_init__(self) -> None:
        """Scores are kept for the length of the evaluation: some serve two rows."""
        self.known: dict[tuple[str, int], Scores] = {}
        self.painters: dict[bool, Painter] = {}

    def painter(self, controlled: bool) -> Painter:
        """The pipeline with or without the ControlNet; a single one is kept in memory."""
        from trainer.nets.models import resolve_model

        self.judges.check()
        if controlled not in self.painters:
            self.painters.clear()
            checkpoint = self.run.checkpoint if controlled else None
            model, recipe = resolve_model(self.run.model), recipe_of(self.config)
            self.painters[controlled] = Painter(model, checkpoint, recipe, self.device)
        return self.painters[controlled]

    def pictures(self, name: str, group: int) -> Pictures:
        """Pictures of an arm, of ``real`` or of ``real/vae``."""
        if name == "real":
            return self.samples.images
        if name == "real/vae":
            return self.painter(False).autoencode(self.samples.images, self.config.batch)
        return load_generated(folder_of(self.config.results, self.run, name), self.samples, group)

    def scores(self, name: str, group: int = 0) -> Scores:
        """Measurements of an arm, of ``real`` or of ``real/vae``."""
        if (name, group) not in self.known:
            self.known[name, group] = measure(self.pictures(name, group), self.samples, self.judges)
        return self.known[name, group]

    @cached_property
    def real_features(self) -> Features:
        """Features of the real eval pictures, to which distances are taken."""
        return extract(self.samples.images, self.judges.extractor, self.judges.cache)

    @cached_property
    def train_features(self) -> Features | None:
        """Features of as many real training pictures: their distance is what two real sets differ by."""
        try:
            train = load_samples(dataset_of(self.config, self.run), self.samples.condition, len(self.samples), "train")
        except CnlabError:  # a dataset for evaluation only
            return None
        return extract(train.images, self.judges.extractor, self.judges.cache)


def recipe_of(config: EvalConfig) -> Recipe:
    """The part of the settings that decides pixels."""
    return Recipe(config.steps, config.guidance, config.dtype)


def dataset_of(config: EvalConfig, run: Run) -> Any:
    """Folder of the dataset to evaluate on."""
    folder = config.dataset or run.dataset
    if not folder.is_dir():
        raise CnlabError(f"{folder} does not exist; say where the dataset is with --dataset data/NAME")
    return folder


def prepare(config: EvalConfig) -> Evaluation:
    """Read run and dataset and work out what is to be done. Raises CnlabError for anything that does not fit."""
    from trainer.nets.models import resolve_clip

    assert config.run is not None  # EvalConfig sees to it
    run = open_run(config.run)
    samples = load_samples(dataset_of(config, run), str(run.fact("condition")), config.images)
    samples = replace(samples, weights=config.condition_weights)
    device = pick_device(config.device)
    inception = config.inception
    extractor = lite0_extractor(device) if inception is None else inception_extractor(inception, device)
    judges = Judges(resolve_clip(config.clip), extractor, config.results / "features", device)
    recipe = recipe_of(config)
    jobs: dict[str, dict[str, Any]] = {
        arm: identity(run, arm, samples, config.generation_groups, recipe) for arm in config.arms
    }
    return Evaluation(config, run, samples, judges, device, jobs)


def plan(work: Evaluation) -> list[str]:
    """What is going to happen, in lines for people."""
    samples, config = work.samples, work.config
    lines = [
        f"run      {work.run.id}, step {work.run.fact('step')}, condition {samples.condition}, on {work.device}",
        f"samples  {len(samples)} eval samples of {samples.name}, {config.groups} picture(s) each",
        f"arms     {', '.join(work.jobs)}; {config.steps} steps, guidance {config.guidance:g}, {config.dtype}",
        f"judges   {work.judges.clip_id}, {', '.join(work.judges.extractor.distance)}",
    ]
    if len(samples) < config.images:
        lines.append(f"note     the eval split has {len(samples)} samples, fewer than --images {config.images}")
    if reason := annotator_of(samples.condition, samples.params, samples.weights)[1]:
        lines.append(f"note     fidelity is not measured: {reason}")
    return lines


def generate_all(work: Evaluation) -> int:
    """Make the missing pictures of every arm; returns how many."""
    made = 0
    for arm, job in work.jobs.items():
        folder = folder_of(work.config.results, work.run, arm)
        made += generate(folder, job, work.samples, work.config.batch, partial(work.painter, arm != "prior"))
    return made


def score_all(work: Evaluation) -> int:
    """Write the rows that are not in the table yet; returns how many were written."""
    written = _score(work, "real", "real", None, lambda: _ceiling(work))
    written += _score(work, "real/vae", "real/vae", None, lambda: _of(work, "real/vae", 0))
    for group in work.config.generation_groups:
        for arm in work.jobs:
            name = work.run.id if arm == "control" else f"{work.run.id}/{arm}"
            written += _score(work, name, arm, group, partial(_arm, work, arm, group))
    return written


def _ceiling(work: Evaluation) -> dict[str, Estimate]:
    """Real pictures: the ceiling, and the distance between two real sets, below which differences are noise."""
    return estimates(work.scores("real"), work.samples.condition, work.judges, work.train_features)


def _of(work: Evaluation, name: str, group: int) -> dict[str, Estimate]:
    return estimates(work.scores(name, group), work.samples.condition, work.judges, work.real_features)


def _arm(work: Evaluation, arm: str, group: int) -> dict[str, Estimate]:
    found = _of(work, arm, group)
    if arm == "control" and "shuffled" in work.jobs:
        value, floor, ceiling = work.scores(arm, group), work.scores("shuffled", group), work.scores("real")
        found |= normalised(value, floor, ceiling, work.samples.condition)
    return found


def _score(work: Evaluation, run: str, name: str, group: int | None, compute: Callable[[], dict[str, Estimate]]) -> int:
    """Compute and write the rows of one run name unless rows with the same fingerprint are there."""
    judges, samples = work.judges, work.samples
    mark = fingerprint(
        {
            # the control arm's normalised score leans on the shuffled arm
            "pictures": [work.jobs.get(name)] + ([work.jobs.get("shuffled")] if name == "control" else []),
            "group": group,
            "real": [samples.fingerprint, list(samples.keys), samples.condition],
            "vae": work.run.model_mark if name == "real/vae" else None,
            "judges": [judges.clip_id, judges.extractor.name, judges.version_of("")],
        }
    )
    table = read_results(work.config.results)
    if ((table.run == run) & (table.fingerprint == mark)).any():
        return 0
    own = name in work.jobs
    facts = {
        "run": run,
        "dataset": samples.name,
        "condition": samples.condition,
        **{key: work.run.fact(key) if own else None for key in ("subset_size", "train_seed", "step")},
        "gen_seed": group,
        "split": "eval",
        "fingerprint": mark,
        "commit": code_version()["commit"],
    }
    rows = to_rows(compute(), judges, facts)
    append_rows(work.config.results, rows)
    return len(rows)
