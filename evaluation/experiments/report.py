"""The page of an experiment: question, answers, tables, the plan they were fixed by, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from evaluation.experiments.base import Experiment, Outcome
from evaluation.experiments.table import write_csv
from pipeline.contract.files import atomic, write_json
from pipeline.contract.identity import code_version
from pipeline.contract.text import for_markdown, markdown_table

if TYPE_CHECKING:
    import pandas as pd

    from evaluation.experiments.cells import Cell
    from evaluation.experiments.config import ExperimentConfig


def write_up(
    experiment: Experiment, config: ExperimentConfig, table: pd.DataFrame, cells: Mapping[str, Cell]
) -> list[str]:
    """Page, figure and findings of the cells that are there; with ``--publish`` in the published folder as well.

    Returns what they say, and where.
    """
    name = experiment.name
    if not len(table):
        return [f"{name}: no finished cell yet"]
    outcome = experiment.analyse(table)
    text = page(experiment, table, cells, outcome)
    targets = [(config.folder / f"{name}.md", config.folder / f"{name}.png")]
    if config.publish:
        targets.append((config.published / f"{name}.md", config.published / f"{name}.png"))
        write_csv(table, config.published / f"{name}.csv")
    for markdown, figure in targets:
        if experiment.draw:
            experiment.draw(table, figure)
        with atomic(markdown) as temporary:
            temporary.write_text(text)
    findings = [{"name": f.name, "sentence": f.sentence, **f.numbers} for f in outcome.findings]
    write_json(config.folder / "findings.json", {"experiment": name, "findings": findings, **code_version()})
    return [*(f.sentence for f in outcome.findings), str(targets[-1][0])]


def page(experiment: Experiment, table: pd.DataFrame, cells: Mapping[str, Cell], outcome: Outcome) -> str:
    """Markdown."""
    finished = table["fingerprint"].nunique()
    missing = [cell.label for key, cell in cells.items() if key not in set(table["fingerprint"])]
    parts = [f"# {experiment.question}", "\n".join(f"- {finding.sentence}" for finding in outcome.findings)]
    if missing:
        listed = ", ".join(map(for_markdown, missing))
        parts.append(f"**Incomplete:** {finished} of {len(cells)} cells are finished; missing are {listed}.")
    parts += [f"![{experiment.name}]({experiment.name}.png)"] if experiment.draw else []
    parts += [f"## {grid.title}\n\n{markdown_table(grid.head, grid.rows)}" for grid in outcome.grids]
    parts += [
        f"## The plan, fixed before the data\n\n{experiment.plan.strip()}\n\nsha256 `{experiment.plan_sha256[:12]}`."
        + _other_plans(experiment, table),
        _made_of(table),
    ]
    return "\n\n".join(parts) + "\n"


def _other_plans(experiment: Experiment, table: pd.DataFrame) -> str:
    other = sorted(set(table["plan"]) - {experiment.plan_sha256[:12], ""})
    return f" Cells measured under another plan: {', '.join(other)}." if other else ""


def _made_of(table: pd.DataFrame) -> str:
    def listed(column: str) -> str:
        return ", ".join(f"`{for_markdown(str(v))}`" for v in sorted(set(table[column])) if v) or "–"

    scorings = ", ".join(sorted(set(table["scoring"]) - {"validation"}))
    source = (
        f"Scored by cnlab-eval: {scorings}."
        if scorings
        else "Every number is of the runs' own validations; no picture was scored by cnlab-eval."
    )
    return (
        f"## Made of\n\nPrior {listed('model')}, datasets {listed('dataset')} (fingerprints "
        f"{listed('dataset_fingerprint')}), commits {listed('commit')}. Intervals are over training seeds (t) unless "
        f"said otherwise. {source} The table beside this page holds every validation of every cell."
    )
