"""``cnlab-train``: fine-tune a ControlNet on a dataset of triplets."""

from __future__ import annotations

from typing import Annotated

import tyro

from pipeline.io import run_cli
from trainer.config import TrainConfig


def _run(config: TrainConfig) -> None:
    if config.dry_run:
        plan = config.resolved()
        print(plan)
        print(plan.fine)
        print(f"would write {plan.folder}")
        return
    from trainer.run import run_training  # torch and diffusers take seconds to import

    print(run_training(config))


Command = Annotated[TrainConfig, tyro.conf.subcommand("run")]


def _main() -> None:
    config = tyro.cli(TrainConfig, prog="cnlab-train", description=TrainConfig.__doc__)
    _run(config)


def main() -> None:
    """Entry point."""
    run_cli(_main)


if __name__ == "__main__":
    main()
