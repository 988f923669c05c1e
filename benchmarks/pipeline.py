"""The dataset stage: against `datasets.map` with controlnet-aux, against its own kernels, and as it grows.

    python -m benchmarks.pipeline photographs   # (a): 512 px and Canny from 1.4-megapixel JPEGs, over datasets.map
    python -m benchmarks.pipeline efficiency    # (b): the same build over its own kernels
    python -m benchmarks.pipeline growth        # (c) and (d): peak memory, time an image
    python -m benchmarks.pipeline overhead      # (e): Dask's share

The photographs are scikit-image's bundled ones, enlarged and given sensor grain so that a JPEG of 1365 x 1024 weighs
about what a camera's does. Every repeat of both programs reads the same files, in a process of its own: start,
imports, sealing and the writing of the table are in the time of both. CNLAB_BENCH_PHOTOS names a folder to keep the
photographs in, CNLAB_BENCH_LOCK a file that is locked during each round, on machines with other things to do.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from benchmarks.record import record, spread
from pipeline.build.blocks import Block, build_block
from pipeline.build.pool import ENVIRONMENT, open_pool, stream
from pipeline.build.run import build
from pipeline.build.sample import SampleBuilder
from pipeline.build.shards import write_shard
from pipeline.config import DatasetConfig

SIZE, BLOCK, REPEATS = 512, 64, 3
RATIO, EFFICIENCY = 2048, 4096  # photographs: against datasets.map, which is slow, and against the kernels
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def make_photos(folder: Path, images: int, distinct: bool = True) -> None:
    """Write ``images`` JPEGs of 1365 x 1024 at quality 90, with captions beside them: crops, mirrored and turned.

    Two crops each, joined along a curve of its own, so that none is a copy of another; not ``distinct``: one crop, so
    that most are crops of what came before.
    """
    from skimage import data

    sources = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    rng = np.random.default_rng(0)
    pool = rng.normal(0, 1, (1280, 1707, 4)).astype(np.float32)  # grain: a window of it each, or this takes an hour
    folder.mkdir(parents=True)
    for i in range(images):
        turn = i // len(sources) % 8
        picture = _crop(sources[i % len(sources)], turn, rng)
        if distinct:
            other = _crop(sources[int(rng.integers(len(sources)))], int(rng.integers(8)), rng)
            waves = Image.fromarray(rng.normal(0, 1, (4, 5)).astype(np.float32))
            field = np.asarray(waves.resize((1365, 1024), Image.Resampling.BICUBIC))[..., None]
            picture += (other - picture) / (1 + np.exp(-12 * field))
        y, x = int(rng.integers(256)), int(rng.integers(342))
        grain = pool[y : y + 1024, x : x + 1365]
        noisy = np.clip(picture + 5 * grain[..., :1] + 2 * grain[..., 1:], 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"photo {i:04d}.jpg", quality=90)
        (folder / f"photo {i:04d}.txt").write_text(f"photograph number {i} of a common scene")


def _crop(photograph: NDArray[np.uint8], turn: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """A crop (1024, 1365, 3) from anywhere, turned by ``turn`` quarters, and from 4 on mirrored too."""
    source = Image.fromarray(np.rot90(photograph[:, :: 1 if turn < 4 else -1], turn % 4))
    width = int(rng.uniform(0.5, 0.95) * min(source.width, source.height * 4 / 3))
    height = width * 3 // 4
    left, top = int(rng.integers(source.width - width)), int(rng.integers(source.height - height))
    crop = source.crop((left, top, left + width, top + height)).resize((1365, 1024), Image.Resampling.BICUBIC)
    return np.asarray(crop, np.float32)


def options(photos: Path) -> dict[str, Any]:
    """The build's options: every photograph is a candidate and is built, whichever split it falls in."""
    n = count(photos)
    return {"source": f"folder:{photos}", "size": str(n), "eval_size": n, "eval_share": 0.05,
            "image_size": SIZE, "block": BLOCK}  # fmt: skip


def count(photos: Path) -> int:
    """Number of photographs."""
    return sum(1 for _ in photos.glob("*.jpg"))


class Rate(NamedTuple):
    """Images per second of wall time, and per second of CPU time of all processes together."""

    wall: float
    cpu: float


def ours(photos: Path, out: Path) -> Rate:
    """The whole command."""
    shutil.rmtree(out, ignore_errors=True)
    flags = [part for k, v in options(photos).items() for part in (f"--{k.replace('_', '-')}", str(v))]
    command = [sys.executable, "-m", "pipeline.cli", "build", *flags, "--out", str(out), "--name", "set"]
    return whole(command, count(photos))


def theirs(photos: Path, out: Path) -> Rate:
    """The whole of `map_photos` in a process of its own."""
    shutil.rmtree(out, ignore_errors=True)
    return whole([sys.executable, "-m", "benchmarks.pipeline", "map_photos", str(photos), str(out)], count(photos))


def whole(command: list[str], images: int) -> Rate:
    """Of a command that must succeed, and of all it starts: orphans are adopted, and waited for."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    wall = time.perf_counter() - began
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Rate(images / wall, images / (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))


def map_photos(photos: Path, out: Path) -> None:
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
    mapped = table.map(convert, num_proc=2, features=features)
    out.mkdir(parents=True, exist_ok=True)
    mapped.to_parquet(str(out / "set.parquet"))


def kernels(photos: Path, out: Path, core: int, half: int | None) -> None:
    """Every kernel of a row one after the other on one core, and one write a shard; prints seconds of wall and CPU.

    ``half`` 0 or 1: only every second shard.
    """
    import cv2

    os.sched_setaffinity(0, {core})
    cv2.setNumThreads(1)
    out.mkdir(parents=True, exist_ok=True)
    plan = DatasetConfig(**options(photos)).resolve()
    builder = SampleBuilder(plan)
    keys = sorted(builder.source.keys())
    builder.build(keys[0], 0, "train")  # lazy imports
    began, cpu = time.perf_counter(), time.process_time()
    for first in range(0, len(keys), BLOCK):
        if half is None or first // BLOCK % 2 == half:
            taken = [builder.build(key, first, "train") for key in keys[first : first + BLOCK]]
            rows = [row for row, accepted in taken if accepted]
            write_shard(out / f"{first}.parquet", rows, plan.condition, ("floor", str(first)), [])
    print(time.perf_counter() - began, time.process_time() - cpu)


def floor(photos: Path, out: Path) -> Rate:
    """Of one core's `kernels`, with the environment that workers have."""
    return _kernels(photos, out, [("0", "")])


def both(photos: Path, out: Path) -> Rate:
    """Of two processes with half of the `kernels` each, that share nothing: what two cores can do at most."""
    return _kernels(photos, out, [("0", "0"), ("1", "1")])


def _kernels(photos: Path, out: Path, parts: list[tuple[str, str]]) -> Rate:
    shutil.rmtree(out, ignore_errors=True)
    base = [sys.executable, "-m", "benchmarks.pipeline", "kernels", str(photos), str(out)]
    started = [
        subprocess.Popen([*base, *part], stdout=subprocess.PIPE, text=True, env={**os.environ, **ENVIRONMENT})
        for part in parts
    ]
    times = [tuple(map(float, process.communicate()[0].split())) for process in started]
    images = count(photos)
    return Rate(images / max(t[0] for t in times), images / sum(t[1] for t in times))


@contextlib.contextmanager
def _turn() -> Iterator[None]:
    """Hold the lock that CNLAB_BENCH_LOCK names, if it names one."""
    if not (name := os.environ.get("CNLAB_BENCH_LOCK")):
        yield
        return
    with Path(name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def rounds(parts: dict[str, Callable[[], Rate]]) -> dict[str, list[Rate]]:
    """Rates of each part, run in turn (A B A B ...)."""
    rates: dict[str, list[Rate]] = {name: [] for name in parts}
    for _ in range(REPEATS):
        with _turn():
            for name, run in parts.items():
                rates[name].append(run())
        print({name: tuple(round(x, 1) for x in repeats[-1]) for name, repeats in rates.items()}, flush=True)
    return rates


@contextlib.contextmanager
def _places(images: int) -> Iterator[tuple[Path, Path]]:
    """The photographs, and a folder to write to."""
    with tempfile.TemporaryDirectory() as place:
        yield _photos(images, place), Path(place)


def _photos(images: int, place: str, distinct: bool = True) -> Path:
    """The folder of the photographs, which are made unless they are there."""
    name = f"{'distinct' if distinct else 'crops'}-{images}"
    photos = Path(os.environ.get("CNLAB_BENCH_PHOTOS") or place) / name
    if not photos.is_dir():
        make_photos(photos, images, distinct)
    return photos


def photographs() -> None:
    """(a) the ratio to `datasets.map`: of distinct photographs, and of as many that are mostly rejected as copies."""
    with _places(RATIO) as (photos, root):
        crops = _photos(RATIO, str(root), distinct=False)
        parts = {
            "ours": lambda: ours(photos, root / "ours"),
            "crops": lambda: ours(crops, root / "crops"),
            "theirs": lambda: theirs(photos, root / "theirs"),
        }
        rates = rounds(parts)
        copies = _copies(root / "crops")
    n = f"{RATIO} photographs"
    what = f"512 px + Canny from {n} of 1.4 MP, screened and deduplicated, over datasets.map"
    record(what, ratio(rates, "ours", "theirs"))
    record(f"the same in CPU time of all processes, {n}", ratio(rates, "ours", "theirs", of="cpu"))
    record(f"the same, {copies} of the {n} rejected as copies", ratio(rates, "crops", "theirs"))
    walls = spread([r.wall for r in rates["theirs"]])
    record(f"datasets.map(num_proc=2) with CannyDetector, whole command, images/s, {n}", walls)


def _copies(out: Path) -> int:
    """Number of rejects for being a copy."""
    reasons = pq.read_table(next(out.rglob("rejects.parquet")), columns=["reason"])["reason"].to_pylist()
    return sum(reason.endswith(("duplicate", "_copy")) for reason in reasons)


def efficiency() -> None:
    """(b) the share of what its kernels alone would do on as many cores."""
    with _places(EFFICIENCY) as (photos, root):
        rates = rounds(
            {
                "floor": lambda: floor(photos, root / "floor"),
                "ours": lambda: ours(photos, root / "ours"),
                "both": lambda: both(photos, root / "both"),
            }
        )
    n = f"{EFFICIENCY} photographs"
    walls = {name: spread([r.wall for r in repeats]) for name, repeats in rates.items()}
    record(f"build with 2 workers, whole command, images/s, {n}", walls["ours"])
    record(f"one core's kernels, screened and hashed, images/s, {n}", walls["floor"])
    record(f"whole build with 2 workers over twice one core's kernels, {n}", ratio(rates, "ours", "floor", 0.5))
    record(f"two processes that share nothing over twice one core's kernels, {n}", ratio(rates, "both", "floor", 0.5))
    record(f"whole build with 2 workers over two processes that share nothing, {n}", ratio(rates, "ours", "both"))
    cpu_share = ratio(rates, "ours", "floor", of="cpu")
    record(f"CPU time of the kernels over that of the whole build, all processes, {n}", cpu_share)


def ratio(rates: dict[str, list[Rate]], a: str, b: str, scale: float = 1.0, of: str = "wall") -> str:
    """Median and quartiles of the rounds' own ratios."""
    pairs = zip(rates[a], rates[b], strict=True)
    return spread([scale * getattr(x, of) / getattr(y, of) for x, y in pairs])


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
    for size in sizes:  # a process each: memory does not come back
        subprocess.run([sys.executable, "-m", "benchmarks.pipeline", "one", size], check=True)


def build_of_size(size: str) -> None:
    """One build of ``size`` samples, recorded."""
    with tempfile.TemporaryDirectory() as place, Peak() as peak:
        config = DatasetConfig(size=size, eval_size=64, image_size=64, out=Path(place), duplicates="on",
                               threshold={"duplicate_bits": 0})  # fmt: skip
        plan, began = config.resolve(), time.perf_counter()
        build(config)
        took = time.perf_counter() - began
    count = plan.size + plan.eval_size
    record(
        f"tabletop {size} at 64 px: peak memory of the parent, of all processes, MB",
        f"{peak.parent:.0f}, {peak.total:.0f}",
    )
    record(
        f"tabletop {size} at 64 px: ms an image, 2 workers, start and sealing included", f"{1000 * took / count:.3g}"
    )


def overhead() -> None:
    """(e) the share of the wall time of blocks that Dask adds: scheduling, transfers, waiting."""
    import cv2

    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):  # as workers, from the start
        command = [sys.executable, "-m", "benchmarks.pipeline", "overhead"]
        subprocess.run(command, check=True, env={**os.environ, **ENVIRONMENT})
        return
    cv2.setNumThreads(1)
    rates: dict[str, list[float]] = {"dask": [], "cold": [], "alone": []}
    with tempfile.TemporaryDirectory() as place:
        options = {"size": "4k", "eval_size": 256, "image_size": 64, "out": Path(place)}
        dask = DatasetConfig(**options, workers=1, name="dask").resolve()
        alone = DatasetConfig(**options, workers=0, name="alone").resolve()
        for _ in range(REPEATS):
            with _turn(), open_pool(dask) as worker, open_pool(alone) as here:
                for name, pool, plan in (("cold", worker, dask), ("alone", here, alone), ("dask", worker, dask)):
                    shutil.rmtree(plan.folder, ignore_errors=True)
                    began = time.perf_counter()
                    for _ in stream(pool, build_block, [(b, plan, "x") for b in _blocks()]):
                        pass
                    rates[name].append(2048 / (time.perf_counter() - began))
    for name, suffix in (("dask", ""), ("cold", ", the worker's first blocks included")):
        shares = [1 - d / a for d, a in zip(rates[name], rates["alone"], strict=True)]
        record(f"Dask's share of the time of 8 blocks of 256 at 64 px, 1 worker{suffix}", spread(shares))


def _blocks() -> list[Block]:
    keys = [f"tabletop-1-{i:06d}" for i in range(2048)]
    return [Block("train", n, 256 * n, tuple(keys[256 * n : 256 * (n + 1)])) for n in range(8)]


def main() -> None:
    """The parts that are named, or all."""
    parts: dict[str, Callable[[], None]] = {
        "photographs": photographs,
        "efficiency": efficiency,
        "growth": growth,
        "overhead": overhead,
    }
    name, *rest = sys.argv[1:] or [""]
    if name == "one":
        build_of_size(rest[0])
    elif name == "map_photos":
        map_photos(Path(rest[0]), Path(rest[1]))
    elif name == "kernels":
        photos, out, core, half = rest
        kernels(Path(photos), Path(out), int(core), int(half) if half else None)
    else:
        for each in sys.argv[1:] or list(parts):
            parts[each]()


if __name__ == "__main__":
    main()
