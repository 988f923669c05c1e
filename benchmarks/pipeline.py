"""The dataset stage: against `datasets.map` with controlnet-aux, against its own kernels, and as it grows.

    python -m benchmarks.pipeline photographs   # (a) and (b): 512 px and Canny from 1.4-megapixel JPEGs
    python -m benchmarks.pipeline growth        # (c), (d), (e): peak memory, time an image, Dask's share

The photographs are scikit-image's bundled ones, enlarged and given sensor grain so that a JPEG of 1365 x 1024 weighs
about what a camera's does; every repeat of both programs reads the same files.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from benchmarks.record import interleaved, record, spread
from pipeline.build import build
from pipeline.config import DatasetConfig
from pipeline.rows import Recipe
from pipeline.shards import write_shard

PHOTOS, SIZE, REPEATS = 384, 512, 3


def make_photos(folder: Path, count: int = PHOTOS) -> None:
    """Write ``count`` JPEGs of 1365 x 1024 at quality 90, with captions beside them."""
    from skimage import data

    sources = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i in range(count):
        source = Image.fromarray(sources[i % len(sources)])
        width = int(rng.uniform(0.5, 0.95) * min(source.width, source.height * 4 / 3))
        height = width * 3 // 4
        left, top = int(rng.integers(source.width - width)), int(rng.integers(source.height - height))
        crop = source.crop((left, top, left + width, top + height)).resize((1365, 1024), Image.Resampling.BICUBIC)
        grain = rng.normal(0, 5, (1024, 1365, 1)) + rng.normal(0, 2, (1024, 1365, 3))
        noisy = np.clip(np.asarray(crop) + grain, 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"photo {i:04d}.jpg", quality=90)
        (folder / f"photo {i:04d}.txt").write_text(f"photograph number {i} of a common scene")


def ours(photos: Path, out: Path, **options: Any) -> int:
    """Build the whole folder; returns the number of candidates."""
    shutil.rmtree(out, ignore_errors=True)
    chosen = {"source": f"folder:{photos}", "size": str(PHOTOS), "eval_size": 16, "eval_share": 0.05,
              "image_size": SIZE, "out": out, "name": "set", "block": 64, **options}  # fmt: skip
    build(DatasetConfig(**chosen))
    return PHOTOS


def theirs(photos: Path, out: Path) -> int:
    """`datasets.map(num_proc=2)` with controlnet-aux's CannyDetector, the same columns to Parquet."""
    import datasets
    from controlnet_aux import CannyDetector
    from PIL import ImageOps

    datasets.disable_caching()
    detector = CannyDetector()
    files = sorted(photos.glob("*.jpg"))
    rows = {"image": [str(f) for f in files], "text": [f.with_suffix(".txt").read_text() for f in files]}

    def convert(row: dict[str, Any]) -> dict[str, Any]:
        image = ImageOps.fit(row["image"].convert("RGB"), (SIZE, SIZE), Image.Resampling.LANCZOS)
        edges = detector(image, detect_resolution=SIZE, image_resolution=SIZE)
        return {"image": image, "conditioning_image": edges}

    table = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    features = datasets.Features(
        {"image": datasets.Image(), "text": datasets.Value("string"), "conditioning_image": datasets.Image()}
    )
    made = table.map(convert, num_proc=2, features=features)
    out.mkdir(parents=True, exist_ok=True)
    made.to_parquet(str(out / "set.parquet"))
    return len(files)


def serial(photos: Path, out: Path, **options: Any) -> int:
    """Every kernel of a row one after the other in this process, and one write a shard: the floor of the build."""
    out.mkdir(parents=True, exist_ok=True)
    config = DatasetConfig(source=f"folder:{photos}", image_size=SIZE, **options)
    recipe = Recipe(config)
    keys = recipe.source.keys()
    for first in range(0, len(keys), 64):
        taken = [recipe.take(key, first, "train") for key in keys[first : first + 64]]
        rows = [row for row, accepted in taken if accepted]
        write_shard(out / f"{first}.parquet", rows, config.condition, ("floor", str(first)), [])
    return len(keys)


def photographs() -> None:
    """(a) the ratio to `datasets.map`, (b) the share of the kernels' floor."""
    bare = {"screen": "off", "duplicates": "off"}
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        make_photos(root / "photos")
        photos = root / "photos"
        rates = interleaved(
            {
                "theirs": lambda: theirs(photos, root / "theirs"),
                "ours": lambda: ours(photos, root / "ours"),
                "bare": lambda: ours(photos, root / "bare", **bare),
                "floor": lambda: serial(photos, root / "floor"),
                "bare floor": lambda: serial(photos, root / "bare-floor", **bare),
            },
            REPEATS,
        )

    def ratio(a: str, b: str, scale: float = 1.0) -> str:
        return spread([scale * x / y for x, y in zip(rates[a], rates[b], strict=True)])

    record(
        "512 px + Canny from 1.4-megapixel JPEGs, screened and deduplicated, over datasets.map", ratio("ours", "theirs")
    )
    record("the same without screens and copies, over datasets.map", ratio("bare", "theirs"))
    record("datasets.map(num_proc=2) with CannyDetector, images/s", spread(rates["theirs"]))
    record("build with 2 workers, start of the cluster included, images/s", spread(rates["ours"]))
    record("one core, screened and deduplicated, images/s", spread(rates["floor"]))
    record("one core, without screens and copies, images/s", spread(rates["bare floor"]))
    record("build with 2 workers over twice one core's kernels", ratio("ours", "floor", 0.5))


class Peak:
    """Largest resident memory, MB, of this process and of its children together, sampled ten times a second."""

    def __init__(self) -> None:
        self.total = self.parent = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._over.wait(0.1):
            sizes = []
            for process in (me, *me.children(recursive=True)):
                try:
                    sizes.append(process.memory_info().rss / 1e6)
                except psutil.Error:
                    continue
            self.total, self.parent = max(self.total, sum(sizes)), max(self.parent, sizes[0])

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()


def growth(sizes: tuple[str, ...] = ("1k", "10k", "50k")) -> None:
    """(c) peak memory and (d) time an image as a set grows; tabletop at 64 px, copies looked for."""
    import subprocess

    for size in sizes:  # a process each: memory does not come back
        subprocess.run([sys.executable, "-m", "benchmarks.pipeline", "one", size], check=True)


def one(size: str) -> None:
    """One build of ``size`` samples, recorded."""
    with tempfile.TemporaryDirectory() as place, Peak() as peak:
        config = DatasetConfig(size=size, eval_size=64, image_size=64, out=Path(place), duplicates="on",
                               threshold={"duplicate_bits": 0})  # fmt: skip
        began = time.perf_counter()
        build(config)
        took = time.perf_counter() - began
    count = config.resolved_size + config.eval_size
    record(
        f"tabletop {size} at 64 px: peak memory of the parent, of all processes, MB",
        f"{peak.parent:.0f}, {peak.total:.0f}",
    )
    record(
        f"tabletop {size} at 64 px: ms an image, 2 workers, start and sealing included", f"{1000 * took / count:.3g}"
    )


def overhead() -> None:
    """(e) the share of a build's wall time that is not spent in blocks: scheduling, transfers, waiting at the end."""
    from pipeline import build as stage

    with tempfile.TemporaryDirectory() as place:
        config = DatasetConfig(size="4k", eval_size=256, image_size=64, out=Path(place), workers=1, name="dask")
        alone = DatasetConfig(size="4k", eval_size=256, image_size=64, out=Path(place), workers=0, name="alone")
        rates: dict[str, list[float]] = {"dask": [], "alone": []}
        for _ in range(REPEATS):
            for name, chosen in (("alone", alone), ("dask", config)):
                shutil.rmtree(chosen.folder, ignore_errors=True)
                with stage.runner(chosen) as run:  # the cluster's start is not overhead of the blocks
                    began = time.perf_counter()
                    blocks = [
                        stage.Block("train", n, 256 * n, tuple(f"tabletop-1-{256 * n + i:06d}" for i in range(256)))
                        for n in range(8)
                    ]
                    for _ in run(stage.build_block, [(b, chosen, "x") for b in blocks]):
                        pass
                    rates[name].append(2048 / (time.perf_counter() - began))
    shares = [1 - d / a for d, a in zip(rates["dask"], rates["alone"], strict=True)]
    record("Dask's share of the time of 8 blocks of 256, 1 worker", spread(shares))


if __name__ == "__main__":
    parts = {"photographs": photographs, "growth": growth, "overhead": overhead}
    if sys.argv[1:2] == ["one"]:
        one(sys.argv[2])
    else:
        for name in sys.argv[1:] or list(parts):
            parts[name]()
