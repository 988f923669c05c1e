"""The command ``cnlab-study``: make | import | analyse."""

from __future__ import annotations

from typing import Annotated

import tyro

from pipeline.contract.errors import run_cli
from user_study.config import Analyse, Import, Make

Command = (
    Annotated[Make, tyro.conf.subcommand("make")]
    | Annotated[Import, tyro.conf.subcommand("import")]
    | Annotated[Analyse, tyro.conf.subcommand("analyse")]
)


def run(command: Make | Import | Analyse) -> None:
    """Carry out one sub-command; the work is imported here so that ``--help`` stays quick."""
    if isinstance(command, Make):
        from user_study.sheets.make import make_study

        make_study(command)
    elif isinstance(command, Import):
        from user_study.votes.collect import import_answers

        import_answers(command)
    else:
        from user_study.analysis.report import analyse_study

        print(analyse_study(command.study))


def main() -> None:
    """Entry point of the console script."""
    run_cli(lambda: run(tyro.cli(Command, prog="cnlab-study")))
