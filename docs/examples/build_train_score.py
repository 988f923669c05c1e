"""Build a dataset, train on two nested subsets of it, score both, and print what the larger one gains.

    python docs/examples/build_train_score.py            # about ten minutes on two cores
    python docs/examples/build_train_score.py --help     # every number below is an option

Everything is resumable: run it again after a stop. Copy it and edit it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import tyro

from evaluation.config import EvalConfig, RecipeOptions
from evaluation.evaluate import generate_all, prepare, score_all
from evaluation.results import read_results
from pipeline.build.run import build
from pipeline.config import DatasetConfig
from trainer.config import TrainConfig
from trainer.run import run_training


@dataclass(frozen=True)
class Study:
    """Two nested subsets of one dataset."""

    out: Path = Path("example")
    source: str = "tabletop"  # or folder:PATH, parquet:PATH, webdataset:URL, hub:NAME
    image_size: int = 64
    sizes: tuple[int, int] = (16, 256)
    steps: int = 200
    batch: int = 8
    images: int = 48  # held-out samples that are generated and scored
    sampling_steps: int = 10


def main(study: Study) -> pd.DataFrame:
    """Returns the rows of the headline metric, one for each size."""
    dataset = DatasetConfig(
        source=study.source, size=str(max(study.sizes)), eval_size=study.images, image_size=study.image_size,
        out=study.out / "data", name="set", workers=0,
    )  # fmt: skip
    build(dataset)
    names = []
    for size in study.sizes:
        run = run_training(
            TrainConfig(
                dataset=study.out / "data" / "set", subset=str(size), steps=study.steps, batch=study.batch,
                out=study.out / "runs", name=f"n{size}", validate_every=study.steps,
            )
        )  # fmt: skip
        names.append(run.name)
        evaluation = prepare(
            EvalConfig(
                run=run, results=study.out / "results", images=study.images, arms=("control",),
                recipe=RecipeOptions(steps=study.sampling_steps),
            )
        )  # fmt: skip
        generate_all(evaluation)
        score_all(evaluation)
    table = read_results(study.out / "results")
    rows = table[(table["metric"] == "canny_f1_2px") & table["run"].isin(names)]
    columns = ["run", "subset_size", "value", "ci_low", "ci_high", "n"]
    return rows[columns].sort_values("subset_size").reset_index(drop=True)


if __name__ == "__main__":
    print(main(tyro.cli(Study, description=__doc__)).to_string(index=False))
