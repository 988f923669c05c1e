"""The experiments by name; each is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import get_args

from evaluation.experiments.base import Experiment
from evaluation.experiments.config import Name

NAMES: tuple[str, ...] = get_args(Name)


def get_experiment(name: str) -> Experiment:
    """The experiment of a file in this folder."""
    experiment: Experiment = import_module(f"evaluation.experiments.{name.replace('-', '_')}").EXPERIMENT
    return experiment
