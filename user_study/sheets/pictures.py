"""Reading generated pictures and condition maps, and writing them again so that nothing but pixels is left."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.generations import find_generated
from pipeline.contract.errors import CnlabError, first_line
from pipeline.contract.files import read_json
from user_study.design.trials import shuffled

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

MAX_PIXELS = 64_000_000  # the project's cap on one picture
TILES = 4  # a scrambled picture is cut into TILES x TILES parts


@dataclass(frozen=True)
class Side:
    """One side of the comparison: a generation folder that is complete."""

    name: str  # as in the results table: RUNID, RUNID/shuffled, RUNID/prior
    folder: Path
    manifest: dict[str, Any]
    images: dict[str, str]  # file name -> sample key

    @property
    def run(self) -> str:
        """RUNID alone."""
        return self.name.split("/")[0]


def load_side(results: Path, name: str) -> Side:
    """Read the manifest of ``RUNID`` or ``RUNID/ARM``; raises CnlabError when missing or damaged."""
    generated = find_generated(results, name)
    return Side(generated.subject, generated.folder, generated.manifest, generated.images)


def run_summary(runs: Path, run: str) -> dict[str, Any]:
    """Header of a training run (``condition, subset_size, train_seed, step``); empty where it is not at hand."""
    header = runs / run / "summary.json"
    return dict(read_json(header)) if header.exists() else {}


def matched(a: Side, b: Side) -> dict[str, list[str]]:
    """Files in both folders with the same key, by key; the same name means the same (key, seed), so the same noise."""
    common: dict[str, list[str]] = {}
    for file, key in sorted(a.images.items()):
        if b.images.get(file) == key:
            common.setdefault(key, []).append(file)
    return common


def read_samples(dataset: Path, keys: set[str], column: str | None) -> dict[str, tuple[str, bytes | None]]:
    """Caption and map (encoded picture, or None without ``column``) of each key of the eval split.

    Raises CnlabError when a key or the column is missing, or a shard is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = ["key", "text", *([column] if column else [])]
    found: dict[str, tuple[str, bytes | None]] = {}
    shards = sorted(dataset.glob("eval-*.parquet"))
    for shard in shards:
        try:
            rows = pq.read_table(shard, columns=columns, filters=[("key", "in", sorted(keys))]).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise CnlabError(f"{shard} cannot be read ({first_line(error)}); make the dataset again") from error
        if rows and column and column not in rows[0]:
            raise CnlabError(f"{shard} has no map column {column!r}; choose another with --condition")
        for row in rows:
            found[row["key"]] = (row["text"] or "", row[column]["bytes"] if column else None)
    missing = sorted(keys - found.keys())
    if missing:
        raise CnlabError(
            f"{len(missing)} of {len(keys)} generated samples are not in the eval split of {dataset} (such as "
            f"{json.dumps(missing[0])}); give the dataset that the pictures were generated from"
        )
    return found


def open_rgb(data: bytes, name: str) -> Image:
    """Decode a PNG to RGB; raises CnlabError naming ``name`` when damaged or above MAX_PIXELS."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise CnlabError(f"{name} is larger than {MAX_PIXELS // 1_000_000} megapixels")
            return picture.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise CnlabError(f"{name} is not a readable PNG ({error})") from error


def read_picture(side: Side, file: str) -> Image:
    """A generated picture as RGB."""
    path = side.folder / file
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise CnlabError(f"{path} is in the manifest but not in the folder; generate again") from error
    return open_rgb(data, str(path))


def encode(picture: Image, size: tuple[int, int]) -> bytes:
    """PNG bytes of the pixels alone (RGB, 8 bit, ``size`` = width and height): no text, time, profile or EXIF."""
    import numpy as np
    from PIL import Image

    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(picture.convert("RGB"))).save(buffer, "PNG", compress_level=9)
    return buffer.getvalue()


def scramble(pixels: NDArray[np.uint8], salt: str) -> NDArray[np.uint8]:
    """Cut (H, W, 3) into 4 x 4 tiles and move every one of them: same colours, but the layout of the map is gone.

    Rows and columns that do not divide by 4 stay at the edge. The tiles follow one cycle, so none keeps its place.
    """
    high, wide = (n // TILES for n in pixels.shape[:2])
    out = pixels.copy()
    order = [int(n) for n in shuffled(map(str, range(TILES * TILES)), salt, "tiles")]

    def tile(n: int) -> tuple[slice, slice]:
        row, column = divmod(n, TILES)
        return slice(row * high, (row + 1) * high), slice(column * wide, (column + 1) * wide)

    for here, there in zip(order, order[1:] + order[:1], strict=True):
        out[tile(there)] = pixels[tile(here)]
    return out
