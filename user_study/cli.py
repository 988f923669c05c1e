"""The command ``cnlab-study``: make | import | tidy | analyse | plan | simulate."""

from __future__ import annotations

from typing import Annotated

import tyro
from tyro.extras import SubcommandApp

from pipeline.contract.errors import run_cli
from user_study.config import Analyse, Import, Make, Plan, Simulate, Tidy

# Every import inside a function waits for it: the libraries behind them take seconds, and --help is to be quick.
app = SubcommandApp()
FLAT = tyro.conf.arg(name="")  # options are called --study, not --config.study


@app.command(name="make")
def make(config: Annotated[Make, FLAT]) -> None:
    """Build blinded sheets from generated or real pictures."""
    from user_study.sheets.make import make_study

    make_study(config)


@app.command(name="import")
def import_(config: Annotated[Import, FLAT]) -> None:
    """Check answers, write votes, analysis and report, and add rows to the results table."""
    from user_study.votes.collect import import_answers

    import_answers(config)


@app.command(name="tidy")
def tidy(config: Annotated[Tidy, FLAT]) -> None:
    """Analyse votes made elsewhere, a CSV with the columns rater, item, choice."""
    from user_study.votes.tidy import import_table

    import_table(config)


@app.command(name="analyse")
def analyse(config: Annotated[Analyse, FLAT]) -> None:
    """Print the analysis of the imported votes and write analysis.json and report.html."""
    from user_study.analysis.analyse import analyse_study

    print(analyse_study(config.study, config.simulated, config.results))


@app.command(name="plan")
def plan(config: Annotated[Plan, FLAT]) -> None:
    """How many raters and items a wanted effect needs, by simulation."""
    from user_study.design.plan import plan_study

    print(plan_study(config))


@app.command(name="simulate")
def simulate(config: Annotated[Simulate, FLAT]) -> None:
    """Fill a study's sheets with simulated raters, labelled so in every file."""
    from user_study.votes.simulate import simulate_study

    simulate_study(config)


def main() -> None:
    """Entry point of the console script."""
    run_cli(lambda: app.cli(prog="cnlab-study"))
