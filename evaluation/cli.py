"""``cnlab-eval``: generate, score, write the table and the report; compare what was scored."""

from __future__ import annotations

import sys
from typing import Annotated

import tyro
from tyro.extras import SubcommandApp

from evaluation.config import CompareConfig, EvalConfig, ReportConfig
from evaluation.experiments.config import ExperimentConfig
from pipeline.contract.errors import run_cli

app = SubcommandApp()
FLAT = tyro.conf.arg(name="")  # options are called --run, not --config.run
COLUMNS = ("run", "recipe", "gen_seed", "metric", "value", "ci_low", "ci_high", "n")


@app.command(name="evaluate")
def evaluate(config: Annotated[EvalConfig, FLAT]) -> None:
    """Generate and score: fidelity to the condition, CLIP score, distances, each with its interval (the default)."""
    # torch and diffusers take seconds to import: only now is it sure that they are needed
    from evaluation.evaluate import generate_all, plan, prepare, score_all
    from evaluation.report.figures import draw_figures
    from evaluation.report.page import write_report

    _hush()
    work = prepare(config)
    print("\n".join(plan(work)))
    if config.dry_run:
        return
    generated = generate_all(work)
    written = score_all(work)
    report, table = config.results / "report.html", config.results / "results.parquet"
    if generated or written:
        draw_figures(work)
    if generated or written or not report.exists() or report.stat().st_mtime_ns < table.stat().st_mtime_ns:
        write_report(config.results)
    print(f"{generated} pictures generated, {written} rows written" if generated or written else "nothing to do")
    _print_rows(config, {str(pictures.subject) for pictures in work.sets})
    print(f"table:  {table}\nreport: {report}")


@app.command(name="report")
def report(config: Annotated[ReportConfig, FLAT]) -> None:
    """Write report.html again from what the results folder holds."""
    from evaluation.report.page import write_report

    print(f"report: {write_report(config.results)}")


@app.command(name="compare")
def compare(config: Annotated[CompareConfig, FLAT]) -> None:
    """Paired differences of subjects on the same samples and noise, with intervals."""
    from evaluation.compare import compare_all, verdicts, write_variances
    from evaluation.report.spread import variance_lines
    from pipeline.contract.text import markdown_table

    print("\n".join(verdicts(compare_all(config))))
    if spread := write_variances(config.results):
        path, table = spread
        head = ["runs", "measure", "seeds x groups x samples", "seed", "sample", "noise", "rest"]
        print("\nWhere scores differ, as standard deviations:", markdown_table(head, variance_lines(table)), sep="\n")
        print(f"variances: {path}")
    print(f"table:  {config.results / 'results.parquet'}")


@app.command(name="experiment")
def experiment(config: Annotated[ExperimentConfig, FLAT]) -> None:
    """A table of cells, trained and scored: how much data, of what quality (resumable)."""
    from evaluation.experiments.cli import experiment as carry_out

    carry_out(config)


def _hush() -> None:
    """Loading a small model is no progress worth a bar; the bar of the pictures is."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()


def _print_rows(config: EvalConfig, subjects: set[str]) -> None:
    from evaluation.results import read_results

    table = read_results(config.results)
    rows = table[table.run.isin(list(subjects))].sort_values(["metric", "run"])
    print(rows[list(COLUMNS)].to_string(index=False, float_format=lambda v: f"{v:.4g}", na_rep=""))


def _main() -> None:
    arguments = sys.argv[1:]
    if arguments and arguments[0].startswith("-") and arguments[0] not in ("-h", "--help"):
        arguments = ["evaluate", *arguments]  # the default command
    app.cli(prog="cnlab-eval", description="Score ControlNets, base models and pictures.", args=arguments)


def main() -> None:
    """Entry point."""
    run_cli(_main)


if __name__ == "__main__":
    main()
