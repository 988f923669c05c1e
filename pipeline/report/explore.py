"""``cnlab-dataset explore``: a page of every figure with its threshold, and what another one would take or lose."""

from __future__ import annotations

import base64
from collections import Counter
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow.parquet as pq

from pipeline.config import ExploreConfig
from pipeline.contract.dataset import REJECTS, Triplets
from pipeline.contract.files import atomic, lock_folder, remove_parts
from pipeline.contract.pictures import decode_image
from pipeline.contract.text import for_terminal
from pipeline.report.candidates import Candidates, Mask, collect
from pipeline.screen.checks import Check, checks_of
from pipeline.screen.limits import OFF, PRESETS, resolve_limits
from pipeline.screen.thumbs import thumbnail

PAGE = "explore.html"
BINS, STEPS = 48, 40  # bars of a histogram; thresholds that are tried
TAILS = (0.005, 0.995)  # quantiles between which a histogram lies
SHOWN = 8  # pictures on each side of a threshold
WIDTH, HEIGHT = 600, 120  # of a histogram, units of its drawing
TEMPLATE = Path(__file__).with_name("explore.html")


class Pictures:
    """Thumbnails and words of candidates, for the page."""

    def __init__(self, triplets: Triplets, candidates: Candidates) -> None:
        self.triplets, self.candidates = triplets, candidates
        self.rejects = pq.ParquetFile(triplets.folder / REJECTS)
        groups = [self.rejects.metadata.row_group(i).num_rows for i in range(self.rejects.num_row_groups)]
        self.starts = np.concatenate([[0], np.cumsum(groups, dtype=np.int64)])

    def tiles(self, indices: list[int], name: str) -> list[dict[str, str]]:
        """What the page shows of these candidates; of a map's figure the maps."""
        column = name.partition("/")[2] or "image"
        start, tiles = 0, {}
        for split, count in self.candidates.splits.items():
            inside = [i for i in indices if start <= i < start + count]
            if inside:
                table = self.triplets.take(split, ["key", "text", column], [i - start for i in inside])
                for index, row in zip(inside, table.to_pylist(), strict=True):
                    tiles[index] = _tile(row["key"], row["text"], thumbnail(decode_image(row[column]["bytes"])))
            start += count
        tiles |= {i: self._reject(i - start) for i in indices if i >= start}
        values = self.candidates.figures[name]
        return [{**tiles[index], "value": f"{values[index]:.4g}"} for index in indices]

    def _reject(self, index: int) -> dict[str, str]:
        group = int(np.searchsorted(self.starts, index, "right")) - 1
        row = self.rejects.read_row_group(group).slice(index - int(self.starts[group]), 1).to_pylist()[0]
        small = row["thumbnail"]["bytes"] if row["thumbnail"] else b""
        return _tile(row["key"], f"{row['reason']}: {row['detail']}", small)


def _tile(key: str, text: str, data: bytes) -> dict[str, str]:
    kind = "image/png" if data.startswith(b"\x89PNG") else "image/jpeg"
    source = f"data:{kind};base64,{base64.b64encode(data).decode()}" if data else ""
    return {"key": for_terminal(key), "text": for_terminal(text)[:160], "source": source}


def nearest(candidates: Candidates, name: str, group: Mask, limit: float) -> list[int]:
    """Candidates of a group whose figure lies nearest to the threshold, in the order of the figure."""
    values = candidates.figures[name]
    inside = np.flatnonzero(group & np.isfinite(values))
    closest = inside[np.argsort(np.abs(values[inside] - limit), kind="stable")[:SHOWN]]
    return [int(i) for i in closest[np.argsort(values[closest], kind="stable")]]


def section(
    candidates: Candidates, name: str, check: Check, limits: dict[str, float], pictures: Pictures
) -> dict[str, Any] | None:
    """What the page says of one figure: bars, thresholds, pictures; None where it has no values.

    Bars count samples, rejects that fail this check, and other rejects, from below.
    """
    values, limit = candidates.figures[name], limits[check.threshold]
    measured = np.isfinite(values)
    if not measured.any():
        return None
    off = limit == OFF.get(check.threshold)
    low, high = np.quantile(values[measured], TAILS)
    low, high = (low, high) if off else (min(low, limit), max(high, limit))
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    failing = ~candidates.taken & candidates.failing(limits)[check.threshold]
    groups = (candidates.taken, failing, ~candidates.taken & ~failing)
    bins = np.linspace(low, high, BINS + 1)
    counts = np.stack([np.histogram(np.clip(values[g & measured], low, high), bins)[0] for g in groups])
    tried = np.linspace(low, high, STEPS + 1)
    tried = tried if off else np.unique(np.append(tried, limit))
    effects = candidates.effects(limits, check.threshold, tried)
    return {
        "name": name,
        "check": check,
        "limit": _shown(check.threshold, limit),
        "at": None if off else round(WIDTH * (limit - low) / (high - low), 1),
        "low": f"{low:.4g}",
        "high": f"{high:.4g}",
        "bars": _bars(counts),
        "steps": [(f"{t:.4g}", *effect) for t, effect in zip(tried, effects, strict=True)],
        "now": int(np.abs(tried - (low if off else limit)).argmin()),
        "kept": pictures.tiles(nearest(candidates, name, candidates.taken, limit), name),
        "lost": pictures.tiles(nearest(candidates, name, failing, limit), name),
        "failing": int(failing.sum()),
    }


def _bars(counts: Any) -> list[tuple[float, float, float, float, int]]:
    """(3, BINS) counts -> x, y, width, height and group of every bar; heights by square roots, so that one shows."""
    top = np.sqrt(np.cumsum(counts, axis=0))
    scale = HEIGHT / max(float(top.max()), 1.0)
    edges = np.vstack([np.zeros(BINS), top]) * scale
    wide = WIDTH / BINS
    return [
        (round(i * wide, 2), round(HEIGHT - b, 2), round(wide - 1, 2), round(b - a, 2), group)
        for group in range(3)
        for i, (a, b) in enumerate(zip(edges[group], edges[group + 1], strict=True))
        if b > a
    ]


def comparison(name: str, candidates: Candidates, limits: dict[str, float], other: dict[str, float]) -> dict[str, Any]:
    """What a whole screen would take and lose."""
    takes, loses = candidates.effect(limits, other)
    changes = [f"{k} {_shown(k, limits[k])} -> {_shown(k, v)}" for k, v in other.items() if v != limits[k]]
    return {"name": name, "takes": int(takes.sum()), "loses": int(loses.sum()), "changes": changes}


def _shown(threshold: str, value: float) -> str:
    return "off" if value == OFF.get(threshold) else f"{value:g}"


def explore(config: ExploreConfig) -> None:
    """Write the page of a finished dataset, and say what the asked thresholds would do. Raises CnlabError."""
    triplets = Triplets(config.folder)
    limits = {**PRESETS["off"], **triplets.header["config"]["limits"]}
    chosen = resolve_limits("off", config.threshold)  # refuses unknown names
    base = resolve_limits(config.screen, {}) if config.screen else limits
    proposal = {**base, **{name: chosen[name] for name in config.threshold}}
    with lock_folder(config.folder):
        remove_parts(config.folder)
        candidates = collect(triplets)
        pictures = Pictures(triplets, candidates)
        parts = [section(candidates, *named, limits, pictures) for named in checks_of(candidates.figures)]
        screens = {f"--screen {name}": preset for name, preset in PRESETS.items()}
        screens = {"these thresholds": proposal, **screens} if proposal != limits else screens
        rows = [comparison(name, candidates, limits, other) for name, other in screens.items()]
        reasons = Counter(pq.read_table(triplets.folder / REJECTS, columns=["reason"])["reason"].to_pylist())
        environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
        text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
            name=triplets.header["name"],
            counts=triplets.header["counts"],
            reasons=reasons.most_common(),
            unknown=int(candidates.fixed.sum()),
            screens=rows,
            sections=sorted((part for part in parts if part), key=lambda part: -part["failing"]),
            width=WIDTH,
            height=HEIGHT,
        )
        with atomic(config.folder / PAGE) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="replace")
    if proposal != limits:
        print(f"{', '.join(rows[0]['changes'])}: takes {rows[0]['takes']} rejects, loses {rows[0]['loses']} samples")
    print(f"{config.folder / PAGE} written")
