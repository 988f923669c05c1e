"""``cnlab-dataset``: build a dataset of triplets, check it, look at it, make others of it, carry it elsewhere."""

from __future__ import annotations

from typing import Annotated

import tyro
from tyro.extras import SubcommandApp

from pipeline.config import (
    CardConfig,
    DamageConfig,
    DatasetConfig,
    ExploreConfig,
    ExportConfig,
    SelectConfig,
    VerifyConfig,
)
from pipeline.contract.errors import run_cli
from pipeline.contract.files import lock_folder

# Every import inside a function waits for it: the libraries behind them take seconds, and --help is to be quick.
app = SubcommandApp()
FLAT = tyro.conf.arg(name="")  # options are called --folder, not --config.folder


@app.command(name="build")
def build(config: Annotated[DatasetConfig, FLAT]) -> None:
    """Raw images to (image, caption, condition map) triplets."""
    if config.dry_run:
        print(config.resolve())
        print(f"would write {config.folder}")
        return
    from pipeline.build.run import build as run_build
    from pipeline.screen.checks import advice

    header = run_build(config)
    counts, rejects = header["counts"], header["rejects"]
    reasons = ", ".join(f"{k} {v}" for k, v in rejects.items()) or "none"
    print(f"{config.folder}: {counts['train']} train, {counts['eval']} eval, rejected: {reasons}")
    if advised := advice(rejects, sum(counts.values()), config.resolve().limits):
        print(f"note: {advised} (under another --name)")
    captions = header.get("caption_sources", {})
    print(f"captions: {', '.join(f'{name} {count}' for name, count in captions.items())}")
    if captions.get("filename"):
        print(f"note: for {captions['filename']} samples no caption was found and the file name became it")


@app.command(name="verify")
def verify(config: Annotated[VerifyConfig, FLAT]) -> None:
    """Compare every file of a finished dataset with its sha256; exit status 2 when something is damaged."""
    from pipeline.build.verify import verify as run_verify

    run_verify(config)


@app.command(name="card")
def card(config: Annotated[CardConfig, FLAT]) -> None:
    """Write README.md (the hub's dataset card) and contact.png of a finished dataset anew."""
    from pipeline.contract.dataset import Triplets
    from pipeline.report.card import write_card
    from pipeline.report.contact import write_contact
    from pipeline.report.croissant import write_croissant

    header = Triplets(config.folder).header
    with lock_folder(config.folder):
        write_contact(config.folder, header["shards"], tuple(header["conditions"]))
        header |= {"license": config.license} if config.license else {}
        write_card(config.folder, header)
        write_croissant(config.folder, header)
    print(f"{config.folder / 'README.md'} written")


@app.command(name="explore")
def explore(config: Annotated[ExploreConfig, FLAT]) -> None:
    """Write explore.html: a finished dataset's figures, and what other thresholds would take or lose."""
    from pipeline.report.explore import explore as run_explore

    run_explore(config)


@app.command(name="damage")
def damage(config: Annotated[DamageConfig, FLAT]) -> None:
    """Damage a share of a dataset's training samples; the evaluation samples stay byte for byte."""
    from pipeline.variants.damage import run_damage

    run_damage(config)


@app.command(name="select")
def select(config: Annotated[SelectConfig, FLAT]) -> None:
    """Put a dataset's training samples into the order of a selection; evaluation samples stay byte for byte."""
    from pipeline.variants.select import run_select

    run_select(config)


@app.command(name="export")
def export(config: Annotated[ExportConfig, FLAT]) -> None:
    """Write a dataset in the layout of another trainer."""
    from pipeline.exports.run import run_export

    run_export(config)


def main() -> None:
    """Entry point of the console script."""
    run_cli(lambda: app.cli(prog="cnlab-dataset", description="Raw images to checked ControlNet triplets."))


if __name__ == "__main__":
    main()
