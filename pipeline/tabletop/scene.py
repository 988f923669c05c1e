"""What stands on the table: a scene drawn from (seed, index), and the caption that is true of it.

In the manner of CLEVR (Johnson et al., 2017, arXiv 1612.06890): a few objects with named shape, size,
material and colour on a named floor. World axes: x right, y away from the viewer, z up, floor at z = 0;
lengths in arbitrary units, a large object being about 1.3 wide.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FIELD_OF_VIEW = 0.70  # radians, of the square image's side
LOOK_AT = np.array([0.0, 0.0, 0.38], np.float32)  # the point on the camera's axis

SHAPES = ("sphere", "cube", "cylinder", "cone", "pyramid")
MATERIALS = ("matte", "shiny", "metallic")
SIZES = ("large", "small")
FLOORS = ("wooden", "checkered", "marble", "sandy", "slate")
LIGHTS = ("neutral", "warm", "cool")
#: Linear-light RGB albedo in [0, 1] of each named colour.
COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.72, 0.05, 0.05),
    "orange": (0.90, 0.34, 0.03),
    "yellow": (0.88, 0.72, 0.06),
    "green": (0.06, 0.42, 0.10),
    "cyan": (0.05, 0.58, 0.62),
    "blue": (0.05, 0.13, 0.66),
    "purple": (0.33, 0.07, 0.50),
    "white": (0.85, 0.85, 0.85),
}
#: Half-extent range in world units for each size word; the gap between them keeps the words unambiguous.
EXTENT = {"large": (0.58, 0.70), "small": (0.35, 0.42)}
OBJECT_COUNT_PROBABILITY = (0.35, 0.45, 0.20)  # one, two, three objects


@dataclass(frozen=True)
class Solid:
    """One object. ``x, y`` is its foot on the floor, ``extent`` its half-width, ``yaw`` in radians about z."""

    shape: str
    color: str
    material: str
    size: str
    x: float
    y: float
    extent: float
    height: float  # half-height, world units
    yaw: float

    @property
    def phrase(self) -> str:
        """The noun phrase without its article, e.g. ``large shiny red sphere``."""
        return f"{self.size} {self.material} {self.color} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """Everything the renderer needs, and the caption. A pure function of (seed, index)."""

    solids: tuple[Solid, ...]
    floor: str
    floor_phase: tuple[float, ...]  # 8 numbers in [0, 1): where the floor's pattern starts, its tint
    wall: tuple[float, float, float]  # linear RGB of the background
    light: str
    light_direction: tuple[float, float, float]  # unit, from the floor to the lamp
    azimuth: float  # camera, radians about z
    elevation: float  # camera, radians above the floor
    distance: float  # camera to the point it looks at
    caption: str


def _draw_solid(rng: np.random.Generator, size: str, placed: list[Solid], azimuth: float) -> Solid | None:
    """Draw one object that neither touches nor mostly hides those already placed; None if it finds no room."""
    right = np.array([np.cos(azimuth), np.sin(azimuth)])  # the image's horizontal axis on the floor
    extent = float(rng.uniform(*EXTENT[size]))
    shape = str(rng.choice(SHAPES))
    height = extent * float(rng.uniform(0.85, 1.25)) if shape in ("cylinder", "cone", "pyramid") else extent
    radius = extent * (0.92 if shape == "cube" else 1.0)
    for _ in range(100):
        x, y = float(rng.uniform(-1.0, 1.0)), float(rng.uniform(-0.6, 0.9))
        offsets = [(np.array([x - t.x, y - t.y]), radius + t.extent) for t in placed]
        apart = all(np.hypot(*o) > 1.12 * gap for o, gap in offsets)
        if apart and all(abs(o @ right) > 0.8 * gap for o, gap in offsets):
            break
    else:
        return None
    return Solid(
        shape=shape,
        color=str(rng.choice(list(COLORS))),
        material=str(rng.choice(MATERIALS)),
        size=size,
        x=x,
        y=y,
        extent=radius * (0.8 if shape == "cube" else 1.0),
        height=height * (0.8 if shape == "cube" else 1.0),
        yaw=float(rng.uniform(0, np.pi / 2)),
    )


def _caption(rng: np.random.Generator, solids: list[Solid], floor: str, light: str, azimuth: float) -> str:
    """Say what is there, in one of several true wordings; objects are named in random order."""
    order = [solids[i] for i in rng.permutation(len(solids))]
    phrases = [f"a {t.phrase}" for t in order]
    across = [t.x * np.cos(azimuth) + t.y * np.sin(azimuth) for t in order]
    if len(order) == 2 and rng.random() < 0.35:
        side = "left" if across[0] < across[1] else "right"
        text = f"{phrases[0]} to the {side} of {phrases[1]}"
    elif len(order) == 1:
        text = phrases[0]
    else:
        text = ", ".join(phrases[:-1]) + " and " + phrases[-1]
    text = f"{text} on a {floor} floor"
    if light != "neutral" and rng.random() < 0.5:
        text += f" in {light} light"
    return text


def sample_scene(seed: int, index: int) -> Scene:
    """Draw scene ``index`` of the world named by ``seed``.

    Depends on (seed, index) alone, so any subset, order or number of workers gives the same scene.
    """
    rng = np.random.default_rng([seed, index])
    count = 1 + int(rng.choice(3, p=OBJECT_COUNT_PROBABILITY))
    azimuth = float(rng.uniform(-0.5, 0.5))
    sizes = [str(rng.choice(SIZES, p=(0.65, 0.35) if count == 1 else (0.45, 0.55))) for _ in range(count)]
    if count == 3:  # three large objects do not fit the frame
        sizes = sorted(sizes, key=SIZES.index)
        sizes[1:] = ["small", "small"]
    elevation, distance = float(rng.uniform(0.42, 0.68)), float(rng.uniform(4.3, 4.9))
    solids: list[Solid] = []
    while len(solids) < count:  # until everything stands apart and whole inside the frame
        solids = []
        for size in sizes:
            solid = _draw_solid(rng, size, solids, azimuth)
            solids += [] if solid is None else [solid]
        solids = _centred(solids)
        solids = [t for t in solids if in_frame(t, azimuth, elevation, distance)]
    floor, light = str(rng.choice(FLOORS)), str(rng.choice(LIGHTS))
    lamp_azimuth, lamp_elevation = rng.uniform(0.15 * np.pi, 0.85 * np.pi) + np.pi, rng.uniform(0.75, 1.1)
    return Scene(
        solids=tuple(solids),
        floor=floor,
        floor_phase=tuple(float(v) for v in rng.random(8)),
        wall=tuple(float(v) for v in rng.uniform(0.25, 0.6) * rng.uniform(0.9, 1.1, 3)),  # type: ignore[arg-type]
        light=light,
        light_direction=(
            float(np.cos(lamp_elevation) * np.cos(lamp_azimuth)),
            float(np.cos(lamp_elevation) * np.sin(lamp_azimuth)),
            float(np.sin(lamp_elevation)),
        ),
        azimuth=azimuth,
        elevation=elevation,
        distance=distance,
        caption=_caption(rng, solids, floor, light, azimuth),
    )


def camera_axes(azimuth: float, elevation: float) -> NDArray[np.float32]:
    """Rows right, up, backward of the camera, (3, 3) float32, world axes; azimuth 0 looks along +y."""
    ca, sa, ce, se = np.cos(azimuth), np.sin(azimuth), np.cos(elevation), np.sin(elevation)
    back, right = np.array([sa * ce, -ca * ce, se]), np.array([ca, sa, 0.0])
    return np.stack([right, np.cross(back, right), back]).astype(np.float32)


def in_frame(solid: Solid, azimuth: float, elevation: float, distance: float) -> bool:
    """Whether the object's bounding cylinder projects inside the square image, up to a 3% margin."""
    x, y, z = camera_axes(azimuth, elevation) @ (np.array([solid.x, solid.y, solid.height]) - LOOK_AT)
    half = np.tan(FIELD_OF_VIEW / 2) * (distance - z) * 0.97
    wide = solid.extent * (1.25 if solid.shape in ("cube", "pyramid") else 1.0)
    tall = solid.height * np.cos(elevation) + wide * np.sin(elevation)
    return bool(abs(x) + wide < half and abs(y) + tall < half)


def _centred(solids: list[Solid]) -> list[Solid]:
    """Slide the group so that it sits near the middle of the frame; a lone object keeps half its offset."""
    share = 0.5 if len(solids) == 1 else 0.2
    mx, my = np.mean([t.x for t in solids]) * (1 - share), np.mean([t.y for t in solids]) * (1 - share)
    return [Solid(**{**t.__dict__, "x": float(t.x - mx), "y": float(t.y - my)}) for t in solids]
