"""How fast the embedded source is on one core: rendering alone, and a whole dataset row (render, Canny, PNG)."""

from __future__ import annotations

import cv2

from benchmarks.record import interleaved, record, spread
from pipeline.build.sample import SampleBuilder
from pipeline.config import DatasetConfig
from pipeline.tabletop import render, sample_scene

COUNT = 64


def main() -> None:
    """Measure and record."""
    cv2.setNumThreads(1)
    builder = SampleBuilder(DatasetConfig().resolve())

    def renders() -> int:
        for i in range(COUNT):
            render(sample_scene(1, i), 128)
        return COUNT

    def rows() -> int:
        for i in range(COUNT):
            builder.build(f"tabletop-1-{i:06d}", i, "train")
        return COUNT

    rates = interleaved({"render": renders, "row": rows})
    record("tabletop, 128 px, images/s on one core", spread(rates["render"]))
    record("tabletop row with Canny and PNG, images/s on one core", spread(rates["row"]))
    record("row rate over render rate", spread([b / a for a, b in zip(rates["render"], rates["row"], strict=True)]))


if __name__ == "__main__":
    main()
