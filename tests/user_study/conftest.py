from __future__ import annotations

from pathlib import Path

import pytest
from study_world import World, small_world


@pytest.fixture
def world(tmp_path: Path) -> World:
    return small_world(tmp_path)
