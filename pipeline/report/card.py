"""The dataset card: README.md with the hub's YAML header, which also names the splits for `datasets`."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset  # read_table would import it at its first call, when everything waits for the card
from huggingface_hub import DatasetCardData

from pipeline.contract.dataset import read_columns
from pipeline.contract.files import atomic
from pipeline.contract.schema import FIGURES
from pipeline.contract.sizes import format_size
from pipeline.contract.text import for_markdown, markdown_table
from pipeline.screen.limits import OFF

BODY = """
# {name}

{train} training and {eval} evaluation triplets of image, caption and condition map ({conditions}),
{size} x {size} pixels.

![First training samples, each with its map and caption](contact.png)

| | |
|---|---|
| source | {source} |
| licence of the images | {license} |
| seed | {seed} |
| captions | {captions} |
| fingerprint | `{fingerprint}` |
| made by | controlnet-lab {version}, commit {commit} |

```python
from datasets import load_dataset
triplets = load_dataset("{name}", split="train")  # or this folder's path
```

## Subsets and splits

Rows are in hash-rank order: the first n training rows are the subset of size n, so subsets are nested. The same
{eval} evaluation samples serve every size. {duplicates}

## Screening

Of {candidates} candidates {taken} were taken. `rejects.parquet` (with thumbnails), `rejects.csv` and `rejects.html`
list the rest.

{rejects}

Thresholds (`{screen}`): {limits}.

## Conditions

{parameters}

Maps are made from the pixels as stored, by the parameters in `<condition>_params`, so each can be made again.{leak}

## Images

Quantiles over the training samples.

{figures}
"""


def size_category(count: int) -> str:
    """The hub's name for a number of samples, e.g. ``1K<n<10K``."""
    bounds = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")]
    return next((name for bound, name in bounds if count < bound), "1M<n<10M")


def _parameters(columns: pa.Table, conditions: list[str]) -> str:
    """What was drawn for each condition: the range of numbers, the names of anything else."""
    rows = []
    for condition in conditions:
        values: dict[str, Values] = {}
        for chunk in columns[f"{condition}_params"].chunks:
            for params in map(json.loads, chunk.to_pylist()):
                for name, value in params.items():
                    values.setdefault(name, Values()).add(value)
        described = [f"{name} {taken}" for name, taken in sorted(values.items())]
        rows.append([f"`{condition}`", "; ".join(described) or "none"])
    return markdown_table(["condition", "parameters drawn, from ... to"], rows)


class Values:
    """The values that one parameter took: their range if they are numbers, else the commonest."""

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf
        self.names: Counter[str] = Counter()

    def add(self, value: Any) -> None:
        """One more sample's."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            self.low, self.high = min(self.low, value), max(self.high, value)
        else:
            self.names[str(value)] += 1

    def __str__(self) -> str:
        numbers = [f"{self.low:g} ... {self.high:g}"] if self.low <= self.high else []
        return ", ".join(numbers + [f"{for_markdown(k)} ({n})" for k, n in self.names.most_common(4)])


def _figures(columns: pa.Table) -> str:
    rows = []
    for name in FIGURES:
        low, middle, high = np.quantile(columns[name].to_numpy().astype(np.float64), (0.05, 0.5, 0.95))
        rows.append([f"`{name}`", f"{low:.3g}", f"{middle:.3g}", f"{high:.3g}"])
    return markdown_table(["figure", "5 %", "50 %", "95 %"], rows)


def _leak(header: dict[str, Any]) -> str:
    if not header["soft_map_leak"]:
        return ""
    leaks = [
        f"`{name}` R² {leak['r2']:.2f} [{leak['ci_low']:.2f}, {leak['ci_high']:.2f}] over {leak['n']} maps"
        for name, leak in header["soft_map_leak"].items()
    ]
    return " How much of the grey image a linear reader recovers from soft maps: " + "; ".join(leaks) + "."


def _front_matter(header: dict[str, Any]) -> str:
    data = DatasetCardData(
        license=header["license"],
        size_categories=[size_category(sum(header["counts"].values()))],
        task_categories=["text-to-image"],
        tags=["controlnet", "controlnet-lab"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": s, "path": f"{s}-*.parquet"} for s in ("train", "eval")],
            }
        ],
        pretty_name=header["name"],
    )
    return f"---\n{data.to_yaml()}\n---\n"


def write_card(folder: Path, header: dict[str, Any]) -> None:
    """Write README.md from the header and the shards."""
    conditions, identity = header["conditions"], header["config"]
    names = ["caption_source", *FIGURES, *(f"{c}_params" for c in conditions)]
    columns = read_columns(folder, header["shards"], "train", names)
    captions = Counter(columns["caption_source"].to_pylist()).most_common()
    near = f"near copies (up to {identity['limits']['duplicate_bits']:g} of 256 hash bits apart)"
    duplicates = f"No kept image is a copy of another: exact copies and {near} are rejected, across the splits too."
    taken = sum(header["counts"].values())
    text = BODY.format(
        name=header["name"],
        conditions=", ".join(conditions),
        size=header["image_size"],
        source=identity["source"],
        license=for_markdown(header["license"]),
        seed=identity["seed"],
        captions=", ".join(f"{k or 'none'} {n}" for k, n in captions),
        fingerprint=header["fingerprint"],
        version=header["version"],
        commit=header["commit"],
        duplicates=duplicates if identity["duplicates"] == "on" else "Duplicates were not looked for.",
        candidates=format_size(taken + sum(header["rejects"].values())),
        taken=format_size(taken),
        rejects=markdown_table(["reason", "count"], [[k, str(n)] for k, n in header["rejects"].items()])
        if header["rejects"]
        else "None.",
        screen=identity["screen"],
        limits=", ".join(
            f"{k} {'off' if v == OFF.get(k) else f'{v:g}'}" for k, v in sorted(identity["limits"].items())
        ),
        parameters=_parameters(columns, conditions),
        leak=_leak(header),
        figures=_figures(columns),
        **header["counts"],
    )
    with atomic(folder / "README.md") as temporary:
        temporary.write_text(_front_matter(header) + text, encoding="utf-8")
