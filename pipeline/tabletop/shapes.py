"""Ray against shape, in closed form. All arrays float32; rays are (3, N) origin and (3, N) direction.

Each function works in the object's own frame (centred, axis-aligned, ``r`` the half-width, ``h`` the
half-height) and returns the distance ``t`` (N,), ``inf`` where the ray misses, and the outward unit normal
(3, N), arbitrary where it misses.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Hit = tuple[Array, Array]
EPS = np.float32(1e-4)
INF = np.float32(np.inf)


def dot(a: Array, b: Array) -> Array:
    """Column-wise dot product of (3, N) with (3, N) or (3, 1); several times faster than ``(a * b).sum(0)``."""
    return np.asarray(a[0] * b[0] + a[1] * b[1] + a[2] * b[2], dtype=np.float32)


def _nearest_positive(t0: Array, t1: Array) -> Array:
    """The smaller of two roots that lies in front of the ray, else inf."""
    return np.where(t0 > EPS, t0, np.where(t1 > EPS, t1, INF)).astype(np.float32, copy=False)


def _quadratic(a: Array, b: Array, c: Array) -> tuple[Array, Array]:
    """Roots of a t^2 + 2 b t + c, in order; inf where there are none."""
    disc = b * b - a * c
    root = np.sqrt(np.maximum(disc, 0))
    a = np.where(np.abs(a) < 1e-9, np.float32(1e-9), a)
    t0, t1 = (-b - root) / a, (-b + root) / a
    miss = disc < 0
    lo, hi = np.minimum(t0, t1), np.maximum(t0, t1)
    lo[miss] = INF
    hi[miss] = INF
    return lo, hi


def sphere(o: Array, d: Array, r: float, h: float) -> Hit:
    """Ellipsoid of revolution; with h = r a sphere."""
    scale = np.array([1 / r, 1 / r, 1 / h], np.float32)[:, None]
    os, ds = o * scale, d * scale
    t = _nearest_positive(*_quadratic(dot(ds, ds), dot(os, ds), dot(os, os) - 1))
    p = os + ds * np.where(np.isfinite(t), t, 0)
    return t, _unit(p * scale)


def box(o: Array, d: Array, r: float, h: float) -> Hit:
    """Axis-aligned box by the slab method (Kay and Kajiya, 1986)."""
    size = np.array([r, r, h], np.float32)[:, None]
    inv = 1 / np.where(np.abs(d) < 1e-9, np.float32(1e-9), d)
    ta, tb = (-size - o) * inv, (size - o) * inv
    near, far = np.minimum(ta, tb), np.maximum(ta, tb)
    t0, t1 = near.max(0), far.min(0)
    axis = near.argmax(0)
    t = np.where((t0 <= t1) & (t0 > EPS), t0, INF)
    normal = np.zeros_like(o)
    cols = np.arange(o.shape[1])
    normal[axis, cols] = -np.sign(d[axis, cols])
    return t, normal


def cylinder(o: Array, d: Array, r: float, h: float) -> Hit:
    """Upright cylinder with both caps."""
    a, b = d[0] ** 2 + d[1] ** 2, o[0] * d[0] + o[1] * d[1]
    c = o[0] ** 2 + o[1] ** 2 - r * r
    side, _ = _quadratic(a, b, c)
    side = np.where(np.isfinite(side), side, 0)
    side = np.where((side > EPS) & (np.abs(o[2] + side * d[2]) <= h) & (b * b >= a * c), side, INF)
    cap, up = _cap(o, d, r, np.where(d[2] > 0, -h, h).astype(np.float32))
    p = o + d * np.where(np.isfinite(side), side, 0)
    normal = _unit(np.stack([p[0], p[1], np.zeros_like(p[0])]))
    on_cap = cap < side
    normal[:, on_cap] = up[:, on_cap]
    return np.minimum(side, cap), normal


def cone(o: Array, d: Array, r: float, h: float) -> Hit:
    """Upright cone, apex at z = h, base of radius r at z = -h."""
    k = r / (2 * h)
    z = h - o[2]
    a = d[0] ** 2 + d[1] ** 2 - (k * d[2]) ** 2
    b = o[0] * d[0] + o[1] * d[1] + k * k * z * d[2]
    c = o[0] ** 2 + o[1] ** 2 - (k * z) ** 2
    t0, t1 = _quadratic(a, b, c)
    roots = []
    for t in (t0, t1):  # the quadric is a double cone: keep the lower nappe between base and apex
        t = np.where(np.isfinite(t), t, 0)
        roots.append(np.where((t > EPS) & (np.abs(o[2] + t * d[2]) <= h), t, INF))
    side = np.minimum(roots[0], roots[1])
    side = np.where(b * b - a * c < 0, INF, side)
    cap, down = _cap(o, d, r, np.full(o.shape[1], -h, np.float32))
    p = o + d * np.where(np.isfinite(side), side, 0)
    normal = _unit(np.stack([p[0], p[1], k * k * (h - p[2]) + 1e-6]))
    on_cap = cap < side
    normal[:, on_cap] = down[:, on_cap]
    return np.minimum(side, cap), normal


def pyramid(o: Array, d: Array, r: float, h: float) -> Hit:
    """Square pyramid: the ray clipped against five half-spaces."""
    slope = np.array([2 * h, r], np.float32) / np.hypot(2 * h, r)
    planes = np.zeros((5, 4), np.float32)  # normal, offset: n.p <= offset inside
    for i, (sx, sy) in enumerate(((1, 0), (-1, 0), (0, 1), (0, -1))):
        planes[i] = (sx * slope[0], sy * slope[0], slope[1], slope[1] * h)
    planes[4] = (0, 0, -1, h)
    speed = planes[:, :3] @ d
    gap = planes[:, 3:] - planes[:, :3] @ o
    t = gap / np.where(np.abs(speed) < 1e-9, np.float32(1e-9), speed)
    entering = np.where(speed < 0, t, -INF)
    t0, t1 = entering.max(0), np.where(speed > 0, t, INF).min(0)
    hit = (t0 <= t1) & (t0 > EPS)
    return np.where(hit, t0, INF), np.ascontiguousarray(planes[entering.argmax(0), :3].T)


def _cap(o: Array, d: Array, r: float, z: Array) -> Hit:
    """A horizontal disc of radius r at height z (N,)."""
    t = (z - o[2]) / np.where(np.abs(d[2]) < 1e-9, np.float32(1e-9), d[2])
    inside = (o[0] + t * d[0]) ** 2 + (o[1] + t * d[1]) ** 2 <= r * r
    normal = np.zeros_like(o)
    normal[2] = np.sign(z)
    return np.where((t > EPS) & inside, t, INF).astype(np.float32), normal


def _unit(v: Array) -> Array:
    return np.asarray(v / np.maximum(np.sqrt(dot(v, v)), 1e-9), dtype=np.float32)


INTERSECT: dict[str, Callable[[Array, Array, float, float], Hit]] = {
    "sphere": sphere,
    "cube": box,
    "cylinder": cylinder,
    "cone": cone,
    "pyramid": pyramid,
}
