"""``cnlab-eval experiment NAME``."""

from __future__ import annotations

from evaluation.experiments.config import ExperimentConfig


def experiment(config: ExperimentConfig) -> None:
    """Carry out what ``config`` says, or go on with it."""
    from evaluation.experiments.engine import run_experiment
    from evaluation.experiments.registry import get_experiment

    run_experiment(get_experiment(config.name), config)
