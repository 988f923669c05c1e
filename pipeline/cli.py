"""``cnlab-dataset``: build a dataset of triplets, check it, write its card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from pipeline.build.verify import VerifyConfig, verify
from pipeline.config import DatasetConfig
from pipeline.contract.errors import CnlabError, run_cli
from pipeline.contract.files import lock_folder, read_json
from pipeline.exports.run import ExportConfig, run_export
from pipeline.variants.damage import DamageConfig, run_damage
from pipeline.variants.select import SelectConfig, run_select


@dataclass(frozen=True)
class CardConfig:
    """Write README.md (the hub's dataset card) and contact.png of a finished dataset anew."""

    folder: Path  # data/NAME
    license: str = ""  # of the images, e.g. cc-by-4.0; empty: as given to the build


def _build(config: DatasetConfig) -> None:
    if config.dry_run:
        print(config)
        print(f"would write {config.folder}")
        return
    from pipeline.build.pool import prestart

    if not (config.folder / "dataset.json").exists():
        prestart(config)  # before the imports below: workers and this process get ready side by side
    from pipeline.build.run import build

    header = build(config)
    counts, rejects = header["counts"], header["rejects"]
    reasons = ", ".join(f"{k} {v}" for k, v in rejects.items()) or "none"
    print(f"{config.folder}: {counts['train']} train, {counts['eval']} eval, rejected: {reasons}")
    captions = header.get("caption_sources", {})
    print(f"captions: {', '.join(f'{name} {count}' for name, count in captions.items())}")
    if captions.get("filename"):
        print(f"note: for {captions['filename']} samples no caption was found and the file name became it")


def _card(config: CardConfig) -> None:
    from pipeline.contract.dataset import HEADER
    from pipeline.report.card import write_card
    from pipeline.report.contact import write_contact
    from pipeline.report.croissant import write_croissant

    if not (config.folder / HEADER).is_file():
        raise CnlabError(f"{config.folder} is not a finished dataset (no {HEADER}); run cnlab-dataset build first")
    header = read_json(config.folder / HEADER)
    with lock_folder(config.folder):
        write_contact(config.folder, header["shards"], tuple(header["conditions"]))
        header |= {"license": config.license} if config.license else {}
        write_card(config.folder, header)
        write_croissant(config.folder, header)
    print(f"{config.folder / 'README.md'} written")


Command = (
    Annotated[DatasetConfig, tyro.conf.subcommand("build")]
    | Annotated[VerifyConfig, tyro.conf.subcommand("verify")]
    | Annotated[CardConfig, tyro.conf.subcommand("card")]
    | Annotated[DamageConfig, tyro.conf.subcommand("damage")]
    | Annotated[SelectConfig, tyro.conf.subcommand("select")]
    | Annotated[ExportConfig, tyro.conf.subcommand("export")]
)


def _main() -> None:
    command = tyro.cli(Command, prog="cnlab-dataset", description="Raw images to checked ControlNet triplets.")
    run: dict[type, Callable[[Any], None]] = {
        DatasetConfig: _build,
        VerifyConfig: verify,
        CardConfig: _card,
        DamageConfig: run_damage,
        SelectConfig: run_select,
        ExportConfig: run_export,
    }
    run[type(command)](command)


def main() -> None:
    """Entry point."""
    run_cli(_main)


if __name__ == "__main__":
    main()
