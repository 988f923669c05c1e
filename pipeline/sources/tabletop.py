"""The embedded source: procedural still lifes with true captions and exact maps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.contract.identity import fingerprint
from pipeline.sources.base import Raw
from pipeline.tabletop import render, sample_scene
from pipeline.tabletop.render import PALETTE, Render

POOL = 2**18  # samples a world has: enough for 200k and the eval split. Fixed, so that every SIZE nests in it.
WORLD_VERSION = 1  # raised when the renderer or the captions change
DEPTH_NEAR, DEPTH_FAR = 2.5, 10.0  # world units mapped to white and black


class Tabletop:
    """World ``seed``: sample i is a pure function of (seed, i)."""

    notes: tuple[str, ...] = ()
    own_maps: tuple[str, ...] = ("depth", "normal", "segment")

    def __init__(self, seed: int, image_size: int) -> None:
        self.seed, self.image_size = seed, image_size

    def keys(self) -> list[str]:
        """``tabletop-SEED-INDEX`` for the whole pool."""
        return [f"tabletop-{self.seed}-{i:06d}" for i in range(POOL)]

    def fingerprint(self) -> str:
        """Of the world, not of the part of it that is used."""
        return fingerprint({"world": WORLD_VERSION, "seed": self.seed, "pool": POOL})

    def load(self, key: str) -> Raw:
        """Render one scene."""
        scene = sample_scene(self.seed, int(key.rsplit("-", 1)[1]))
        rendering = render(scene, self.image_size)
        size = self.image_size
        return Raw(key, rendering.image, {"template": scene.caption}, size, size, true_maps(rendering))


def true_maps(rendering: Render) -> dict[str, NDArray[np.uint8]]:
    """Ground truth as conditioning images, (S, S, 3) uint8 RGB.

    depth    linear, near is white (the convention of MiDaS-conditioned ControlNets)
    normal   (n + 1) / 2, R right, G up, B towards the viewer
    segment  `PALETTE` colour of the class
    """
    near = np.clip((DEPTH_FAR - rendering.depth) / (DEPTH_FAR - DEPTH_NEAR), 0, 1)
    depth = np.repeat(np.round(255 * near).astype(np.uint8)[..., None], 3, 2)
    normal = np.round(127.5 * (rendering.normal + 1)).astype(np.uint8)
    return {"depth": depth, "normal": normal, "segment": PALETTE[rendering.segment]}
