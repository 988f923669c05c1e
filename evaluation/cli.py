"""``cnlab-eval``: generate with a run, score it, write the table and the report."""

from __future__ import annotations

import tyro

from evaluation.config import EvalConfig
from pipeline.contract.errors import run_cli

SHOWN = ("run", "gen_seed", "metric", "value", "ci_low", "ci_high", "n")


def evaluate(config: EvalConfig) -> None:
    """Do what ``config`` says and print the table of the run at the end."""
    from evaluation.report.page import write_report

    if config.report_only:
        print(f"report: {write_report(config.results)}")
        return
    # torch and diffusers take seconds to import: only now is it sure that they are needed
    from evaluation.evaluate import generate_all, plan, prepare, score_all
    from evaluation.report.figures import draw_run

    _hush()
    work = prepare(config)
    print("\n".join(plan(work)))
    if config.dry_run:
        return
    made = generate_all(work)
    written = score_all(work)
    if made or written:
        draw_run(work)
    report, table = config.results / "report.html", config.results / "results.parquet"
    if made or written or not report.exists() or report.stat().st_mtime_ns < table.stat().st_mtime_ns:
        write_report(config.results)
    print(f"made {made} pictures, wrote {written} rows" if made or written else "nothing to do: all of it is there")
    _print_rows(config, work.run.id)
    print(f"table:  {table}\nreport: {report}")


def _hush() -> None:
    """Loading a small model is no progress worth a bar; the bar of the pictures is."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()


def _print_rows(config: EvalConfig, run: str) -> None:
    from evaluation.results import read_results

    table = read_results(config.results)
    names = table.run.isin(["real", "real/vae", run]) | table.run.str.startswith(f"{run}/")
    rows = table[names].sort_values(["metric", "run"])
    print(rows[list(SHOWN)].to_string(index=False, float_format=lambda v: f"{v:.4g}", na_rep=""))


def _main() -> None:
    evaluate(tyro.cli(EvalConfig, prog="cnlab-eval", description=EvalConfig.__doc__))


def main() -> None:
    """Entry point."""
    run_cli(_main)


if __name__ == "__main__":
    main()
