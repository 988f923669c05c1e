"""The dataset card: README.md with the hub's YAML header, which also names the splits for `datasets`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.io import atomic

TEMPLATE = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: train-*.parquet
  - split: eval
    path: eval-*.parquet
size_categories:
- {category}
task_categories:
- text-to-image
tags:
- controlnet
- controlnet-lab
---

# {name}

{train} training and {eval} evaluation triplets of image, caption and condition map ({conditions}),
{size} x {size} pixels.

![First training samples, each with its map and caption](contact.png)

| | |
|---|---|
| source | {source} |
| seed | {seed} |
| rejected | {rejected} |
| fingerprint | `{fingerprint}` |
| made by | controlnet-lab {version}, commit {commit} |

The rows of each split are in hash-rank order: the first n rows are the subset of size n, so subsets are nested.

```python
from datasets import load_dataset
triplets = load_dataset("{name}", split="train")  # or this folder's path
```
"""


def size_category(count: int) -> str:
    """The hub's name for a number of samples, e.g. ``1K<n<10K``."""
    bounds = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")]
    return next((name for bound, name in bounds if count < bound), "1M<n<10M")


def write_card(folder: Path, header: dict[str, Any]) -> None:
    """Write README.md from the header."""
    counts = header["counts"]
    text = TEMPLATE.format(
        category=size_category(sum(counts.values())),
        name=header["name"],
        conditions=", ".join(header["conditions"]),
        size=header["image_size"],
        source=header["config"]["source"],
        seed=header["config"]["seed"],
        rejected=", ".join(f"{k} {v}" for k, v in header["rejects"].items()) or "none",
        fingerprint=header["fingerprint"],
        version=header["version"],
        commit=header["commit"],
        **counts,
    )
    with atomic(folder / "README.md") as temporary:
        temporary.write_text(text)
