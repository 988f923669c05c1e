"""Every condition of one photograph and of one render: ``python -m pipeline.conditions --out PNG``."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from pipeline.conditions import get_condition, weight_free
from pipeline.conditions.base import Params, Picture, safe_quantise, sample_rng
from pipeline.contract.errors import CnlabError, run_cli
from pipeline.contract.files import atomic
from pipeline.contract.pictures import Tile, picture_sheet

SIDE, TILE, GAP, LABEL, COLUMNS = 512, 176, 8, 46, 6  # pixels of the maps, of a tile, between, below; tiles in a row


@dataclass(frozen=True)
class Sheet:
    """A sheet with every condition of one picture, and of one render with its true maps."""

    out: Path  # PNG to write
    image: Path | None = None  # picture to map; none: scikit-image's cup of coffee (CC0, Rachel Michetti)
    seed: int = 2  # of the drawn parameters
    scene: int = 29  # index of the render in world 1
    weights: dict[str, str] = field(default_factory=dict)  # NAME PATH-or-hub-name: conditions with weights to add


def photograph(path: Path | None) -> Picture:
    """(512, 512, 3) uint8 RGB, the middle of the picture. Raises CnlabError when it cannot be read."""
    if path is None:
        from skimage import data

        whole = Image.fromarray(data.coffee())
    else:
        try:
            whole = Image.open(path).convert("RGB")
        except OSError as error:
            raise CnlabError(f"{path} cannot be read as a picture ({error})") from error
    side = min(whole.size)
    left, top = (whole.width - side) // 2, (whole.height - side) // 2
    crop = whole.crop((left, top, left + side, top + side))
    return np.array(crop.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def tiles(title: str, image: Picture, sheet: Sheet) -> list[Tile]:
    """The image and all its maps."""
    drawn_tiles = [Tile((image,), title)]
    for name in [*weight_free(), *sheet.weights]:
        condition = get_condition(name, weights=sheet.weights.get(name, ""))
        params = condition.draw(sample_rng(sheet.seed, name, title))
        drawn_tiles.append(Tile((condition.extract(image, params),), name, parameters_line(params)))
    return drawn_tiles


def more(image: Picture, sheet: Sheet) -> list[Tile]:
    """Second draws of the conditions that vary most, and what a quantised soft map looks like."""
    drawn_tiles: list[Tile] = []
    for name in ("scribble", "inpaint"):
        condition = get_condition(name)
        params = condition.draw(sample_rng(sheet.seed, name, "a second draw"))
        drawn_tiles.append(Tile((condition.extract(image, params),), f"{name}, drawn again", parameters_line(params)))
    soft = get_condition("softedge")
    params = soft.draw(sample_rng(sheet.seed, "softedge", "safe"))
    return [
        *drawn_tiles,
        Tile((safe_quantise(soft.extract(image, params)),), "softedge, quantised", parameters_line(params)),
    ]


def parameters_line(params: Params) -> str:
    """Parameters in a line: numbers of three digits, lists by their length."""
    short = {k: f"{v:.3g}" if isinstance(v, float) else v for k, v in params.items() if k != "seed"}
    return ", ".join(f"{k} {len(v) if isinstance(v, list) else v}" for k, v in json.loads(json.dumps(short)).items())


def draw_sheet(blocks: list[list[Tile]]) -> Image.Image:
    """Tiles in rows, each with its name and parameters below it; every block starts a row."""
    empty = Tile(())
    tiles = [tile for block in blocks for tile in [*block, *[empty] * (-len(block) % COLUMNS)]]
    return picture_sheet(tiles, COLUMNS, TILE, GAP, LABEL)


def main() -> None:
    """Draw the sheet."""
    from pipeline.sources.tabletop import true_maps
    from pipeline.tabletop import render, sample_scene

    sheet = tyro.cli(Sheet, description=__doc__)
    scene = render(sample_scene(1, sheet.scene), SIDE)
    true_tiles = [Tile((picture,), f"{name} (given)") for name, picture in true_maps(scene).items()]
    rendered = [*tiles("render", scene.image, sheet), *true_tiles, *more(scene.image, sheet)]
    canvas = draw_sheet([tiles("photograph", photograph(sheet.image), sheet), rendered])
    with atomic(sheet.out) as temporary:
        canvas.save(temporary, "PNG", optimize=True)


if __name__ == "__main__":
    run_cli(main)
