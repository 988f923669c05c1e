"""Figures of all candidates of a finished dataset, and what other thresholds would do with them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.contract.dataset import REJECTS, Triplets
from pipeline.screen.checks import checks_of, failed, row_columns, row_figures

Mask = NDArray[np.bool_]
Limits = dict[str, float]


@dataclass(frozen=True)
class Candidates:
    """Samples of a dataset, train and then eval, and its rejects behind them; N in all.

    Attributes
    ----------
    figures
        Name -> (N,) float64; NaN where not measured.
    taken
        (N,) bool.
    fixed
        (N,) bool: rejects that no threshold would take: their fault has no figure, or their figures were not kept.
    splits
        Number of samples of each split, in the order in which they stand.
    """

    figures: dict[str, NDArray[np.float64]]
    taken: Mask
    fixed: Mask
    splits: dict[str, int]

    def failing(self, limits: Limits) -> dict[str, Mask]:
        """Threshold -> (N,) bool: candidates that fail it."""
        return failed(self.figures, limits)

    def effect(self, limits: Limits, others: Limits) -> tuple[Mask, Mask]:
        """(N,) rejects that ``others`` instead of ``limits`` would take, and (N,) samples that they would lose."""
        before, after = (_any(self.failing(each).values(), self.taken) for each in (limits, others))
        return self._change(before, after)

    def effects(self, limits: Limits, threshold: str, values: NDArray[np.float64]) -> list[tuple[int, int]]:
        """Numbers of `effect` for several values of one threshold."""
        masks = self.failing(limits)
        before = _any(masks.values(), self.taken)
        rest = _any([mask for name, mask in masks.items() if name != threshold], self.taken)
        checks = [(name, check) for name, check in checks_of(self.figures) if check.threshold == threshold]
        counts = []
        for value in values:
            failing = [~check.passes(self.figures[name], float(value)) for name, check in checks]
            takes, loses = self._change(before, rest | _any(failing, self.taken))
            counts.append((int(takes.sum()), int(loses.sum())))
        return counts

    def _change(self, before: Mask, after: Mask) -> tuple[Mask, Mask]:
        return ~self.taken & ~self.fixed & before & ~after, self.taken & after & ~before


def _any(masks: Iterable[Mask], like: Mask) -> Mask:
    return np.asarray(np.logical_or.reduce([np.zeros_like(like), *masks]), bool)


def collect(triplets: Triplets) -> Candidates:
    """Figures of every sample, measured on what is stored, and of the rejects, as the build recorded them."""
    conditions, splits, parts = triplets.header["conditions"], dict[str, int](), []
    shards = [s for split in ("train", "eval") for s in triplets.header["shards"] if s["split"] == split]
    for shard in tqdm(shards, desc="figures", unit="shard", mininterval=1):
        rows: list[Mapping[str, Any]] = []
        with pq.ParquetFile(triplets.folder / shard["file"]) as file:
            for batch in file.iter_batches(64, columns=row_columns(conditions)):
                rows += [row_figures(row, conditions) for row in batch.to_pylist()]
        parts.append(_columns(rows))
        splits[shard["split"]] = splits.get(shard["split"], 0) + len(rows)
    rejects = pq.read_table(triplets.folder / REJECTS, columns=_there(triplets))
    texts = rejects["figures"].to_pylist() if "figures" in rejects.column_names else [None] * len(rejects)
    rows = [json.loads(text) if text else {"also": ["figures were not kept"]} for text in texts]
    parts.append(_columns([{k: v for k, v in row.items() if k != "also"} for row in rows]))
    counts = [sum(splits.values()), len(rows)]
    names = sorted({name for part in parts for name in part if name})
    figures = {
        name: np.concatenate([part.get(name, np.full(len(part[""]), np.nan)) for part in parts]) for name in names
    }
    fixed = np.array([False] * counts[0] + [bool(row["also"]) for row in rows], bool)
    return Candidates(figures, np.arange(sum(counts)) < counts[0], fixed, splits)


def _there(triplets: Triplets) -> list[str]:
    """Columns to read of the rejects: those of older datasets have no figures."""
    return [name for name in ("key", "figures") if name in pq.read_schema(triplets.folder / REJECTS).names]


def _columns(rows: list[Mapping[str, Any]]) -> dict[str, NDArray[np.float64]]:
    """Figures of rows as columns; under "" one that every part has, for its length."""
    names = {name for row in rows for name in row}
    columns = {name: np.array([row.get(name, np.nan) for row in rows], np.float64) for name in names}
    return {"": np.zeros(len(rows)), **columns}
