"""``make prior``: train the tabletop models from nothing and write them where the package ships them.

    python -m trainer.prior --work prior-work
    torchrun --nproc-per-node 2 -m trainer.prior --work prior-work

Every part is resumable by the same command, with one process or several; how long the rest takes is printed at the
start. Two processes of one thread are faster than one of two.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from pipeline.contract.errors import run_cli
from trainer.parallel import launched


@dataclass(frozen=True)
class PriorConfig:
    """Train tabletop-clip, tabletop-judge and tabletop-sd; `python -m evaluation.prior.quality` measures them."""

    work: Path = Path("prior-work")  # renders, caches, checkpoints: about 6 GB
    weights: Path = Path(__file__).parent / "weights"  # where the finished models go
    count: int = 40_000  # training renders
    judge_count: int = 24_000  # renders that tabletop-judge is trained on, of a world of its own
    part: Literal["all", "judge", "unet"] = "all"  # unet: with the shipped CLIP and encoder; judge: it alone


def main() -> None:
    """Entry point."""
    config = tyro.cli(PriorConfig, prog="python -m trainer.prior", description=PriorConfig.__doc__)

    def run() -> None:
        from trainer.prior.recipe import train

        with launched("cpu") as (ranks, _):
            train(config, ranks)

    run_cli(run)


if __name__ == "__main__":
    main()
