"""Analytic ray casting of a `Scene` in NumPy: image, depth, normals, segmentation.

Primary rays are cast at ``supersample`` squared per pixel, only inside each object's projected bounds;
shadow rays only where the lamp's ray passes the object's bounding sphere. Everything is float32.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.tabletop.floors import floor_color
from pipeline.tabletop.scene import COLORS, FIELD_OF_VIEW, LOOK_AT, SHAPES, Scene, Solid, camera_axes
from pipeline.tabletop.shapes import INF, INTERSECT, Array, dot

FAR = np.float32(14.0)  # where the floor has faded into the wall, world units
#: Segmentation palette: background, floor, then SHAPES in order. uint8 RGB.
PALETTE = np.array(
    [[0, 0, 0], [90, 90, 90], [230, 60, 60], [60, 120, 230], [70, 190, 90], [240, 190, 50], [170, 80, 200]],
    np.uint8,
)
LIGHT_TINT = {"neutral": (1.0, 1.0, 1.0), "warm": (1.12, 0.98, 0.78), "cool": (0.84, 0.98, 1.16)}
SPECULAR = {"matte": (0.0, 1.0), "shiny": (0.55, 60.0), "metallic": (0.7, 25.0)}  # strength, exponent


@dataclass(frozen=True)
class Render:
    """One rendered scene; S is the image size.

    image    (S, S, 3) uint8 sRGB
    depth    (S, S) float32, camera-space z in world units, FAR on the wall
    normal   (S, S, 3) float32 unit, camera space: x right, y up, z towards the viewer; 0 on the wall
    segment  (S, S) uint8: 0 wall, 1 floor, 2 + index into SHAPES
    instance (S, S) uint8: 0 wall, 1 floor, 2 + index into ``Scene.solids``
    """

    image: NDArray[np.uint8]
    depth: Array
    normal: Array
    segment: NDArray[np.uint8]
    instance: NDArray[np.uint8]


@dataclass
class _Camera:
    origin: Array  # (3,)
    axes: Array  # (3, 3) rows: right, up, backward
    rays: Array  # (3, N) unit directions
    width: int


def _camera(scene: Scene, width: int) -> _Camera:
    axes = camera_axes(scene.azimuth, scene.elevation)
    half = np.tan(FIELD_OF_VIEW / 2)
    u = ((np.arange(width, dtype=np.float32) + 0.5) / width * 2 - 1) * half
    gx, gy = np.meshgrid(u, -u)
    local = np.stack([gx.ravel(), gy.ravel(), np.full(width * width, -1, np.float32)])
    local /= np.sqrt(dot(local, local))
    return _Camera(LOOK_AT + axes[2] * np.float32(scene.distance), axes, axes.T @ local, width)


def _centre(solid: Solid) -> Array:
    return np.array([solid.x, solid.y, solid.height], np.float32)


def _bound(solid: Solid) -> float:
    wide = np.sqrt(2.0) * solid.extent if solid.shape in ("cube", "pyramid") else solid.extent
    return float(solid.extent if solid.shape == "sphere" else np.hypot(wide, solid.height))


def _cast(solid: Solid, origin: Array, rays: Array) -> tuple[Array, Array]:
    """Distance (N,) and world normal (3, N) of one object along world rays."""
    c, s = np.cos(solid.yaw), np.sin(solid.yaw)
    turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]], np.float32)
    local = turn @ (origin - _centre(solid)[:, None])
    local = np.broadcast_to(local, rays.shape) if local.shape[1] == 1 else local
    t, normal = INTERSECT[solid.shape](local, turn @ rays, solid.extent, solid.height)
    return t, turn.T @ normal


def _near(solid: Solid, origin: Array, rays: Array) -> NDArray[np.intp]:
    """Indices of the rays that pass through the object's bounding sphere."""
    to = _centre(solid)[:, None] - origin
    along = dot(to, rays)
    return np.flatnonzero((dot(to, to) - along * along < _bound(solid) ** 2) & (along > 0))


def _first_hits(scene: Scene, cam: _Camera) -> tuple[Array, Array, NDArray[np.uint8]]:
    """Distance (N,), normal (3, N) and id (N,): 0 wall, 1 floor, 2 + i for solid i."""
    n = cam.rays.shape[1]
    down = cam.rays[2] < -1e-4
    t = np.where(down, -cam.origin[2] / np.where(down, cam.rays[2], -1), INF).astype(np.float32)
    ids = (t < FAR).astype(np.uint8)
    t[ids == 0] = INF
    normal = np.zeros((3, n), np.float32)
    normal[2] = ids
    origin = cam.origin[:, None]
    for i, solid in enumerate(scene.solids):
        near = _near(solid, origin, cam.rays)
        ti, ni = _cast(solid, origin, cam.rays[:, near])
        closer = ti < t[near]
        at = near[closer]
        t[at], ids[at] = ti[closer], i + 2
        normal[:, at] = ni[:, closer]
    return t, normal, ids


def _shadow(scene: Scene, points: Array, normal: Array) -> Array:
    """1 where the lamp reaches the point, 0 where an object is in between. (N,)"""
    lit = np.ones(points.shape[1], np.float32)
    lamp = np.array(scene.light_direction, np.float32)[:, None]
    start = points + normal * 2e-3
    for solid in scene.solids:
        near = _near(solid, start, lamp)
        t, _ = _cast(solid, start[:, near], np.broadcast_to(lamp, (3, near.size)))
        lit[near[np.isfinite(t)]] = 0
    return lit


def _contact(scene: Scene, points: Array) -> Array:
    """Soft darkening of the floor next to an object, in place of ambient occlusion. (N,) in (0, 1]"""
    open_sky = np.ones(points.shape[1], np.float32)
    for solid in scene.solids:
        gap2 = (points[0] - solid.x) ** 2 + (points[1] - solid.y) ** 2
        open_sky *= 1 - 0.55 * np.exp(gap2 * np.float32(-1 / (1.1 * solid.extent**2)))
    return open_sky


def _shade_floor(scene: Scene, points: Array, t: Array, behind: Array) -> Array:
    """Lambert floor under lamp and sky, fading into the wall with distance. (3, N) linear RGB"""
    up = np.array([0, 0, 1], np.float32)[:, None]
    albedo = floor_color(scene.floor, points[0], points[1], scene.floor_phase)
    facing = _shadow(scene, points, up) * np.float32(0.95 * scene.light_direction[2])
    sky = _contact(scene, points) * np.float32(0.46)
    haze = np.clip((t - 5.5) / 6, 0, 1)
    out = np.empty_like(points)
    for c, tint in enumerate(LIGHT_TINT[scene.light]):
        color = albedo[c] * (sky + facing * np.float32(tint))
        out[c] = color + (behind[c] - color) * haze
    return out


def _shade_solid(scene: Scene, solid: Solid, points: Array, n: Array, v: Array) -> Array:
    """Lambert and Blinn-Phong (Blinn, 1977); a metal mirrors a bright sky and a dark floor. (3, N) linear RGB"""
    lamp = np.array(scene.light_direction, np.float32)[:, None]
    tint = np.array(LIGHT_TINT[scene.light], np.float32)[:, None]
    albedo = np.array(COLORS[solid.color], np.float32)[:, None]
    strength, exponent = SPECULAR[solid.material]
    lit = _shadow(scene, points, n)
    facing = np.maximum(dot(n, lamp), 0) * lit
    halfway = lamp + v
    halfway /= np.sqrt(dot(halfway, halfway))
    flash = lit * strength * np.maximum(dot(n, halfway), 0) ** np.float32(exponent) if strength else np.zeros_like(lit)
    if solid.material != "metallic":
        return np.asarray(albedo * (0.30 + 0.16 * n[2] + 0.95 * facing * tint) + flash * tint, np.float32)
    up = 2 * dot(n, v) * n[2] - v[2]  # z of the mirrored ray
    mirror = np.where(up > 0.05, 0.65 + 0.75 * np.clip(up, 0, 1) ** 2, 0.16 + 0.14 * np.clip(-up, 0, 1))
    return np.asarray(albedo * (0.9 * mirror + 0.35 * facing * tint) + 0.9 * flash * tint, np.float32)


def _shade(scene: Scene, cam: _Camera, t: Array, normal: Array, ids: NDArray[np.uint8]) -> Array:
    """Linear RGB (3, N) of every ray."""
    wall = np.array(scene.wall, np.float32)[:, None]
    out: Array = wall * (1.0 + 0.5 * np.clip(cam.rays[2:3] + 0.3, -0.3, 0.5))
    for i in range(1, len(scene.solids) + 2):
        on = np.flatnonzero(ids == i)
        rays, ti = cam.rays[:, on], t[on]
        points = cam.origin[:, None] + rays * ti
        if i == 1:
            out[:, on] = _shade_floor(scene, points, ti, out[:, on])
        else:
            out[:, on] = _shade_solid(scene, scene.solids[i - 2], points, normal[:, on], -rays)
    return out


def srgb(linear: Array) -> NDArray[np.uint8]:
    """Linear light to 8-bit sRGB (IEC 61966-2-1), by a 4096-entry table."""
    return np.asarray(_SRGB_TABLE[np.clip(linear * 4095 + 0.5, 0, 4095).astype(np.int16)])


_x = np.linspace(0, 1, 4096)
_SRGB_TABLE = np.round(255 * np.where(_x <= 0.0031308, 12.92 * _x, 1.055 * _x ** (1 / 2.4) - 0.055)).astype(np.uint8)


def render(scene: Scene, size: int = 128, supersample: int = 2) -> Render:
    """Cast `scene` at ``size`` x ``size`` pixels with ``supersample`` squared rays a pixel.

    Maps are point samples (no averaging), so labels and depths are never mixed across an edge.
    """
    wide = size * supersample
    cam = _camera(scene, wide)
    t, normal, ids = _first_hits(scene, cam)
    linear = _shade(scene, cam, t, normal, ids)
    fine = linear.reshape(3, size, supersample, size, supersample)
    parts = [fine[:, :, i, :, j] for i in range(supersample) for j in range(supersample)]
    image = srgb(np.moveaxis(functools.reduce(np.add, parts) / np.float32(supersample**2), 0, -1))
    pick = (slice(supersample // 2, None, supersample),) * 2
    point_ids = ids.reshape(wide, wide)[pick]
    classes = np.array([0, 1] + [2 + SHAPES.index(solid.shape) for solid in scene.solids], np.uint8)
    z = np.where(np.isfinite(t), -(cam.axes[2] @ cam.rays) * np.where(np.isfinite(t), t, 0), FAR)
    local = (cam.axes @ normal).T.reshape(wide, wide, 3)[pick]
    return Render(
        image=image,
        depth=np.ascontiguousarray(z.reshape(wide, wide)[pick], dtype=np.float32),
        normal=np.ascontiguousarray(local, dtype=np.float32),
        segment=classes[point_ids],
        instance=point_ids.copy(),
    )
