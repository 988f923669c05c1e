"""``cnlab-dataset``: build a dataset of triplets."""

from __future__ import annotations

import tyro

from pipeline.config import DatasetConfig
from pipeline.io import run_cli


def _main() -> None:
    config = tyro.cli(DatasetConfig, prog="cnlab-dataset", description=DatasetConfig.__doc__)
    if config.dry_run:
        print(config)
        print(f"would write {config.folder}")
        return
    from pipeline.build import build

    header = build(config)
    counts, rejects = header["counts"], header["rejects"]
    said = ", ".join(f"{k} {v}" for k, v in rejects.items()) or "none"
    print(f"{config.folder}: {counts['train']} train, {counts['eval']} eval, rejected: {said}")


def main() -> None:
    """Entry point."""
    run_cli(_main)


if __name__ == "__main__":
    main()
