"""The model card of an exported ControlNet: README.md with the hub's YAML header and measured results."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.contract.errors import CnlabError, first_line
from pipeline.contract.text import for_markdown, for_terminal, markdown_table
from trainer.convergence.words import verdict_words
from trainer.run_folder import flat_options, grid_path, log_lines, read_config, read_convergence, read_summary

BODY = """
# {name}

A ControlNet{condition} for {base_model}, trained with controlnet-lab.{unfinished}
{picture}
## Use

{usage}

## Training

{training}
{convergence}
## Results

{results}
"""
USAGE = """```python
from diffusers import ControlNetModel, {pipeline}
control = ControlNetModel.from_pretrained("path/of/this/folder")
pipe = {pipeline}.from_pretrained("path-or-name-of-the-base-model", controlnet=control)
image = pipe("a caption", image=condition_map).images[0]
```"""
#: Rows of the table of training facts: label, place in the run's options. What a run does not say is left out.
OPTIONS = {
    "batch": "images a step",
    "lr": "peak learning rate",
    "schedule": "learning-rate schedule",
    "warmup": "warm-up steps",
    "prompt_drop": "share of prompts dropped",
    "precision": "precision",
    "variant": "variant",
    "seed": "seed",
}
BASE = {"revision": "base model's revision", "vae": "autoencoder", "weights_variant": "variant of its weights"}
COLUMNS = [
    "run",
    "dataset",
    "gen_seed",
    "step",
    "split",
    "metric",
    "value",
    "ci_low",
    "ci_high",
    "n",
    "higher_is_better",
]
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")  # owner/name
LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")  # an identifier of the hub, e.g. openrail, apache-2.0, unknown


@dataclass(frozen=True)
class Facts:
    """What a run's files say of the checkpoint of one step; whatever is missing stays empty."""

    name: str
    step: int | None = None
    config: Mapping[str, Any] = field(default_factory=dict)  # config.json of the run
    summary: Mapping[str, Any] = field(default_factory=dict)  # summary.json; empty: not finished
    convergence: Mapping[str, Any] = field(default_factory=dict)  # convergence.json
    images: int | None = None  # seen in training, by log.jsonl
    samples: Path | None = None  # grid at this step

    @property
    def options(self) -> Mapping[str, Any]:
        """The resolved options of the run."""
        return flat_options(self.config)

    @property
    def base_model(self) -> str:
        """The prior: a hub name as it is, the last part of a local path, ``tabletop-sd`` for the shipped one."""
        name = str(self.summary.get("model") or self.options.get("model") or "")
        if name == "tabletop":
            return "tabletop-sd"
        return name if HUB_NAME.fullmatch(name) and not Path(name).exists() else name.rstrip("/").rsplit("/", 1)[-1]

    @property
    def dataset(self) -> str:
        """Name of the dataset."""
        return str(self.summary.get("dataset") or self.config.get("dataset", {}).get("name", ""))


def read_facts(run: Path, step: int) -> Facts:
    """Facts of the checkpoint of ``step`` in the folder of a run."""
    grid = grid_path(run, step)
    return Facts(
        name=run.resolve().name,
        step=step,
        config=read_config(run),
        summary=read_summary(run),
        convergence=read_convergence(run),
        images=_images(run, step),
        samples=grid if grid.is_file() else None,
    )


def _images(run: Path, step: int) -> int | None:
    """Images seen by ``step``, from its line of the log; None when there is no such line."""
    return next((int(line["images"]) for line in log_lines(run) if line["step"] == step and "images" in line), None)


def read_rows(results: Path, run: str, step: int) -> list[dict[str, Any]]:
    """Rows of ``run`` (its control arm) at ``step`` in results.parquet with a finite value; [] without the file."""
    if not results.is_file():
        return []
    try:
        frame = pd.read_parquet(results, columns=COLUMNS)
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        message = first_line(error)
        raise CnlabError(
            f"{results} cannot be read ({message}); give the table of cnlab-eval with --results"
        ) from error
    own = frame[(frame["run"] == run) & (frame["step"] == step).fillna(False)].sort_values(["metric", "gen_seed"])
    rows = [{str(k): None if pd.isna(v) else v for k, v in row.items()} for row in own.to_dict("records")]
    return [row for row in rows if row["value"] is not None and math.isfinite(row["value"])]


def card_text(facts: Facts, rows: list[dict[str, Any]], model: Mapping[str, Any], license: str) -> str:
    """README.md: YAML header and body. ``model`` is config.json of the ControlNet. Raises CnlabError for a licence.

    Every name from a run or table is made inert: one line, and no Markdown of its own.
    """
    if not LICENSE.fullmatch(license):
        raise CnlabError(f"license {license!r} is not an identifier such as openrail, apache-2.0 or unknown")
    condition = str(facts.summary.get("condition", ""))
    total = facts.options.get("steps")
    unfinished = (
        "" if facts.summary or not facts.config else f" Training was not finished: step {facts.step} of {total}."
    )
    body = BODY.format(
        name=for_markdown(facts.name),
        condition=f" ({for_markdown(condition)})" if condition else "",
        base_model=for_markdown(facts.base_model) or "a Stable Diffusion that is not recorded",
        unfinished=for_terminal(unfinished),
        picture="\n![Top to bottom: map, sample, real image](samples.png)\n" if facts.samples else "",
        usage=_usage(model),
        training=_training(facts),
        convergence=_convergence(facts.convergence),
        results=_results(rows),
    )
    return f"---\n{_header(facts, rows, condition, license)}\n---\n{body}"


def _header(facts: Facts, rows: list[dict[str, Any]], condition: str, license: str) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    seeds = {row["gen_seed"] for row in rows}
    results = [
        EvalResult(
            task_type="text-to-image",
            task_name="controlled image generation",
            dataset_type=for_terminal(row["dataset"]),
            dataset_name=for_terminal(row["dataset"]),
            dataset_split=for_terminal(row["split"]),
            metric_type=for_terminal(row["metric"]),
            metric_name=for_terminal(row["metric"]) + (f" (seed {row['gen_seed']})" if len(seeds) > 1 else ""),
            metric_value=float(row["value"]),
        )
        for row in rows
    ]
    tags = ["controlnet", "diffusers", "text-to-image", "stable-diffusion", "controlnet-lab"]
    data = ModelCardData(
        license=license,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=[*tags, *([for_terminal(condition)] if condition else [])],
        # the hub refuses a card whose base_model is no name on it; the text names a local one
        base_model=facts.base_model if HUB_NAME.fullmatch(facts.base_model) else None,
        datasets=[for_terminal(facts.dataset)] if facts.dataset else None,
        model_name=for_terminal(facts.name),
        eval_results=results or None,
    )
    header: str = data.to_yaml()
    return header


def _usage(model: Mapping[str, Any]) -> str:
    kind = str(model.get("_class_name", "ControlNetModel"))
    if kind != "ControlNetModel":
        return f"This folder holds a {for_markdown(kind)}, which controlnet-lab loads (diffusers alone does not)."
    xl = "XL" if model.get("addition_embed_type") == "text_time" else ""
    return USAGE.format(pipeline=f"StableDiffusion{xl}ControlNetPipeline")


def _training(facts: Facts) -> str:
    if not facts.config:
        return "How it was trained is not recorded."
    data, model = facts.config.get("dataset", {}), facts.config.get("model")
    base = model if isinstance(model, dict) else {}
    values = {
        "base model": facts.base_model,
        **{label: base.get(key) for key, label in BASE.items()},
        "dataset": facts.dataset,
        "dataset fingerprint": facts.summary.get("dataset_fingerprint") or data.get("fingerprint"),
        "condition": facts.summary.get("condition"),
        "training samples (subset)": facts.summary.get("subset_size"),
        "optimizer steps": facts.step,
        "images seen": facts.images,
        **{label: facts.options.get(key) for key, label in OPTIONS.items()},
        "run fingerprint": facts.config.get("fingerprint"),
        "code": " ".join(str(facts.config[k]) for k in ("version", "commit") if k in facts.config),
    }
    return markdown_table(
        ["", ""], [[label, _cell(value)] for label, value in values.items() if value not in (None, "")]
    )


def _convergence(record: Mapping[str, Any]) -> str:
    words = for_markdown(verdict_words(record)).rstrip(".")
    return f"\nConvergence, by the change-point test: {words} (`convergence.json`).\n" if words else ""


def _cell(value: Any) -> str:
    return (
        f"{value:g}" if isinstance(value, float) else str(value) if isinstance(value, int) else for_markdown(str(value))
    )


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _results(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "This checkpoint has not been evaluated: there is no row of it in the results table."
    head = ["metric", "value", "interval", "n", "better", "dataset, split", "generation seed"]
    table = markdown_table(head, [_result(row) for row in rows])
    return f"{table}\n\nValues at this step, with the true map; what each means is in the toolkit's docs."


def _result(row: Mapping[str, Any]) -> list[str]:
    low, high = row["ci_low"], row["ci_high"]
    return [
        for_markdown(row["metric"]),
        f"{row['value']:.4g}",
        f"[{low:.4g}, {high:.4g}]" if _finite(low) and _finite(high) else "none",
        "" if row["n"] is None else str(row["n"]),
        {True: "higher", False: "lower"}.get(row["higher_is_better"], ""),
        f"{for_markdown(row['dataset'])}, {for_markdown(row['split'])}",
        "" if row["gen_seed"] is None else str(row["gen_seed"]),
    ]
