from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.build.run import build
from pipeline.config import DatasetConfig


@pytest.fixture(scope="session")
def renders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 training renders of 64 pixels in four shards, with extracted edges and true depth."""
    out = tmp_path_factory.mktemp("variants")
    config = DatasetConfig(
        size="120", eval_size=8, image_size=64, block=32, workers=0, out=out, name="renders",
        condition=("canny", "depth"), duplicates="on",
    )  # fmt: skip
    build(config)
    return out / "renders"
