"""``cnlab-train``: fine-tune a ControlNet on a dataset of triplets, and carry it elsewhere."""

from __future__ import annotations

from typing import Annotated

import tyro

from pipeline.contract.errors import run_cli
from trainer.config import TrainConfig
from trainer.convergence.verdict import VerdictConfig, verdict
from trainer.exchange.export import ExportConfig, ImportConfig, export, import_file
from trainer.exchange.transfer import TransferConfig, transfer


def _run(config: TrainConfig) -> None:
    from trainer.plan import forecast  # torch and diffusers take seconds to import
    from trainer.run import resolve, run_training

    if config.dry_run:
        training, triplets = resolve(config)
        print(training, f"would train on {triplets.folder} and write {training.folder}", sep="\n")
        print(*forecast(training, triplets, settled=config.accumulate is not None), sep="\n")
        return
    print(run_training(config))


Command = (
    Annotated[TrainConfig, tyro.conf.subcommand("run")]
    | Annotated[ExportConfig, tyro.conf.subcommand("export")]
    | Annotated[ImportConfig, tyro.conf.subcommand("import")]
    | Annotated[TransferConfig, tyro.conf.subcommand("transfer")]
    | Annotated[VerdictConfig, tyro.conf.subcommand("verdict")]
)


def _main() -> None:
    command = tyro.cli(Command, prog="cnlab-train", description="Triplets to a trained ControlNet, and that elsewhere.")
    if isinstance(command, TrainConfig):
        _run(command)
    elif isinstance(command, ExportConfig):
        print(export(command))
    elif isinstance(command, ImportConfig):
        print(import_file(command))
    elif isinstance(command, TransferConfig):
        print(transfer(command))
    else:
        print("\n".join(verdict(command)))


def main() -> None:
    """Entry point."""
    run_cli(_main)


if __name__ == "__main__":
    main()
