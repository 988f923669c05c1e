"""``cnlab-train``: fine-tune a ControlNet on a dataset of triplets."""

from __future__ import annotations

import tyro

from pipeline.io import run_cli
from trainer.config import TrainConfig


def _main() -> None:
    config = tyro.cli(TrainConfig, prog="cnlab-train", description=TrainConfig.__doc__)
    if config.dry_run:
        print(config.resolved())
        print(f"would write {config.resolved().folder}")
        return
    from trainer.run import run_training  # torch and diffusers take seconds to import

    print(run_training(config))


def main() -> None:
    """Entry point."""
    run_cli(_main)


if __name__ == "__main__":
    main()
