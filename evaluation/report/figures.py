"""Figures of one run, kept in ``figures/ID/`` so that the report can be written again from the results alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from pipeline.contract.errors import CnlabError
from pipeline.contract.figures import GREY, PALETTE, new_figure, save_figure
from pipeline.contract.files import atomic, read_json, write_json
from pipeline.contract.identity import canonical
from pipeline.contract.pictures import Pictures, Tile, picture_sheet, write_picture

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from evaluation.evaluate import Evaluation
    from trainer.run_folder import Run

INDEX = "figures.json"  # written last: a folder with it is complete
LARGEST = 512  # px; larger pictures are scaled down for the report
GAP = 4  # px between the tiles of a grid
COLOURS = {
    "control": PALETTE[0], "shuffled": PALETTE[1], "prior": GREY, "real/vae": PALETTE[5], "real": PALETTE[2],
}  # fmt: skip
TITLES = {
    "loss": ("held-out loss", "Held-out loss at fixed noise"),
    "fidelity": ("fidelity", "Fidelity to the map as training goes on"),
}
ARM_NAMES = {"true": "true map", "shuffled": "another's map", "none": "no map"}


def draw_run(work: Evaluation) -> Path:
    """Write tiles, grid, curves and ``figures.json`` of the evaluated run; returns the folder."""
    folder = work.config.results / "figures" / work.run.id
    shutil.rmtree(folder, ignore_errors=True)
    group = work.config.generation_groups[0]
    shown = min(work.config.pictures, len(work.samples))
    columns: dict[str, Pictures] = {work.samples.condition: work.samples.maps[:shown]}
    columns["real"] = work.samples.images[:shown]
    columns |= {arm: work.pictures(arm, group)[:shown] for arm in work.jobs}
    tiles = []
    for i in range(shown):
        files = []  # pairs, for JSON objects are written with sorted keys and the order is to be kept
        for name, pictures in columns.items():
            files.append((name, f"tile-{i:02d}-{name}.png"))
            write_picture(folder / files[-1][1], _shrink(pictures[i]))
        tiles.append({"key": work.samples.keys[i], "text": work.samples.texts[i], "files": files})
    samples = zip(*columns.values(), strict=True)
    tiles_of = [Tile((picture,)) for sample in samples for picture in sample]
    sheet = picture_sheet(tiles_of, len(columns), min(LARGEST, work.samples.images.shape[1]), GAP)
    with atomic(folder / "grid.png") as temporary:
        sheet.save(temporary, "PNG")
    found = read_verdict(work.run)
    curves = draw_curves(work.run, folder / "curves.png", found)
    # a report is handed on: names, no places
    summary = {k: v for k, v in work.run.summary.items() if k != "dataset_path"} | {"model": Path(work.run.model).name}
    recipe = {"arms": list(work.jobs), **next(iter(work.jobs.values()))["recipe"]}
    index = {
        "run": work.run.id,
        "condition": work.samples.condition,
        "summary": {k: v if isinstance(v, str) else canonical(v) for k, v in summary.items()},
        "recipe": recipe | {"samples": len(work.samples), "groups": list(work.config.generation_groups)},
        "judges": {"clip": work.judges.clip_id, "features": work.judges.extractor.name},
        "tiles": tiles,
        "curves": curves,
        "verdict": say_verdict(found),
    }
    write_json(folder / INDEX, index)
    return folder


def read_verdict(run: Run) -> dict[str, Any]:
    """The trainer's verdict on the run (``convergence.json``); empty where there is none."""
    path = run.folder / "convergence.json"
    return read_json(path) if path.is_file() else {}


def say_verdict(found: dict[str, Any]) -> str:
    """The verdict in a line, with the interval of the step."""
    reason, interval = str(found.get("reason", "")), found.get("interval")
    return f"{reason}; 95 % interval {interval[0]} to {interval[1]}" if interval else reason


def draw_curves(run: Run, path: Path, found: dict[str, Any]) -> bool:
    """Held-out loss and fidelity by arm, and training loss; False when the run has neither file.

    ``found``: `read_verdict`, whose step and interval are marked.
    """
    import pandas as pd

    validation, log = run.folder / "validation.parquet", run.folder / "log.jsonl"
    drawn: list[tuple[pd.DataFrame, Callable[[Axes, pd.DataFrame], None]]] = []
    if validation.is_file():
        table = pd.read_parquet(validation)
        table = table[table["arm"] != "gap"]
        drawn += [(table[table["metric"] == metric], partial(_plot_validation, metric, found)) for metric in TITLES]
    if log.is_file():
        try:
            lines = [json.loads(line) for line in log.read_text().splitlines() if line.strip()]
        except json.JSONDecodeError as error:
            raise CnlabError(f"{log} is damaged ({error}); mend or delete it") from error
        drawn.append((pd.DataFrame(lines), _plot_log))
    drawn = [(frame, plot) for frame, plot in drawn if len(frame)]
    if not drawn:
        return False
    figure, axes = _panels([3.4] * len(drawn), 5.2)
    for axis, (frame, plot) in zip(axes, drawn, strict=True):
        plot(axis, frame)
    save_figure(figure, path)
    return True


def draw_bars(groups: list[tuple[str, pd.DataFrame]], path: Path) -> None:
    """A panel a metric: a point for each run name with its interval. ``groups`` holds (title, rows)."""
    heights = [0.3 * len(rows) + 0.9 for _, rows in groups]
    longest = max(len(str(run)) for _, rows in groups for run in rows.run)
    figure, axes = _panels(heights, 4.0 + 0.07 * longest)  # inches: room for the plot beside its labels
    for axis, (title, rows) in zip(axes, groups, strict=True):
        limits = rows[["value", "ci_low", "ci_high"]].astype("float64")
        limits = limits.fillna({"ci_low": limits.value, "ci_high": limits.value})  # a single sample has no interval
        for place, (run, (value, low, high)) in enumerate(zip(rows.run, limits.to_numpy(), strict=True)):
            colour = COLOURS[arm_of(str(run))]
            axis.plot([low, high], [place, place], color=colour, linewidth=3, solid_capstyle="butt", alpha=0.6)
            axis.plot([value], [place], "o", color=colour)
        axis.set_yticks(range(len(rows)), _labels(rows))
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set_title(title, loc="left")
        axis.grid(axis="x", alpha=0.3)
    save_figure(figure, path)


def _labels(rows: pd.DataFrame) -> list[str]:
    """Run names; with dataset, step or generation seed where a name occurs more than once."""
    twice = rows.run.duplicated(keep=False)
    more = [name for name in ("dataset", "step", "gen_seed") if rows[name].nunique() > 1]
    parts = [(row, f" ({', '.join(f'{name} {row[name]}' for name in more)})") for _, row in rows.iterrows()]
    return [str(row.run) + (tail if again else "") for (row, tail), again in zip(parts, twice, strict=True)]


def arm_of(run: str) -> str:
    """Arm of a run name as it stands in the table."""
    if run in COLOURS:
        return run
    return next((arm for arm in ("shuffled", "prior") if run.endswith(f"/{arm}")), "control")


def _panels(heights: list[float], width: float) -> tuple[Figure, list[Axes]]:
    """Panels (inches) below one another: a phone is narrow."""
    figure, grid = new_figure(width, sum(heights), len(heights), height_ratios=heights)
    return figure, [row[0] for row in grid]


def _plot_validation(metric: str, found: dict[str, Any], axis: Axes, frame: pd.DataFrame) -> None:
    colours = {"true": COLOURS["control"], "shuffled": COLOURS["shuffled"], "none": COLOURS["prior"]}
    for name, rows in frame.sort_values("step").groupby("arm"):
        arm = str(name)
        colour = colours.get(arm)
        axis.fill_between(rows.step, rows.ci_low, rows.ci_high, color=colour, alpha=0.15, linewidth=0)
        axis.plot(rows.step, rows.value, "o-", markersize=3, label=ARM_NAMES.get(arm, arm), color=colour)
    if found.get("interval"):
        axis.axvspan(*found["interval"], color="#555555", alpha=0.12, linewidth=0)
        axis.axvline(found["step"], color="#555555", linewidth=1, linestyle="--", label="converged")
    axis.set(xlabel="step", ylabel=TITLES[metric][0], title=TITLES[metric][1])
    axis.legend(frameon=False)


def _plot_log(axis: Axes, frame: pd.DataFrame) -> None:
    axis.plot(frame.step, frame.loss, color="#bbbbbb", linewidth=1, label="logged")
    smooth = frame.loss.ewm(halflife=max(len(frame) / 20, 1)).mean()
    axis.plot(frame.step, smooth, color=COLOURS["control"], label="smoothed")
    axis.set(xlabel="step", ylabel="loss", title="Training loss")
    axis.legend(frameon=False)


def _shrink(picture: Any) -> Any:
    if max(picture.shape[:2]) <= LARGEST:
        return picture
    small = Image.fromarray(picture)
    small.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    return np.asarray(small)
