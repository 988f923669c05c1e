"""``cnlab-train``: fine-tune a ControlNet on a dataset of triplets, and carry it elsewhere."""

from __future__ import annotations

from typing import Annotated

import tyro

from pipeline.io import run_cli
from trainer.config import TrainConfig
from trainer.sweep.plan import SweepConfig
from trainer.transfer import TransferConfig


def _run(config: TrainConfig) -> None:
    if config.dry_run:
        plan = config.resolved()
        print(plan, plan.fine, f"would write {plan.folder}", sep="\n")
        return
    from trainer.run import run_training  # torch and diffusers take seconds to import

    print(run_training(config))


def _sweep(config: SweepConfig) -> None:
    from trainer.sweep.run import run_sweep

    print(run_sweep(config))


def _transfer(config: TransferConfig) -> None:
    from trainer.transfer import transfer

    print(transfer(config))


Command = (
    Annotated[TrainConfig, tyro.conf.subcommand("run")]
    | Annotated[SweepConfig, tyro.conf.subcommand("sweep")]
    | Annotated[TransferConfig, tyro.conf.subcommand("transfer")]
)


def _main() -> None:
    command = tyro.cli(Command, prog="cnlab-train", description="Triplets to a trained ControlNet, and that elsewhere.")
    if isinstance(command, TrainConfig):
        _run(command)
    elif isinstance(command, SweepConfig):
        _sweep(command)
    else:
        _transfer(command)


def main() -> None:
    """Entry point."""
    run_cli(_main)


if __name__ == "__main__":
    main()
