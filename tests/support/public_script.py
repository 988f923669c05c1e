"""A stand-in for diffusers' ControlNet script, which is not part of this repository."""

#: Stands for the public script: takes its options and steps an optimizer as often as it is told.
STAND_IN = """
import sys
from pathlib import Path
import torch
from pyarrow import parquet
words = sys.argv[1:]
given = {w: words[i + 1] for i, w in enumerate(words) if w.startswith("--") and i + 1 < len(words)}
(shard,) = Path(given["--train_data_dir"]).glob("*.parquet")
columns = {given[f"--{name}_column"] for name in ("image", "conditioning_image", "caption")}
assert columns == set(parquet.read_schema(shard).names)
for folder in ("--pretrained_model_name_or_path", "--controlnet_model_name_or_path"):
    assert any(Path(given[folder]).iterdir())
weight = torch.nn.Parameter(torch.ones(1))
optimizer = torch.optim.AdamW([weight])
for _ in range(int(given["--max_train_steps"])):
    weight.square().sum().backward()
    optimizer.step()
"""
