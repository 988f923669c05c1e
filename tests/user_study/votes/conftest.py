from __future__ import annotations

import pytest
from study_world import World, small_world


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A study that tests only read."""
    world = small_world(tmp_path_factory.mktemp("fixed"))
    world.make()
    return world
