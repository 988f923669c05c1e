"""What the report shows of an evaluation beside its table: pictures and curves, kept in ``figures/SUBJECT/``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from evaluation.metrics.checks import cautions
from evaluation.scores import PictureSet
from pipeline.contract.figures import GREY, PALETTE, new_figure, save_figure
from pipeline.contract.files import atomic, write_json
from pipeline.contract.identity import canonical
from pipeline.contract.pictures import Tile, picture_sheet, write_picture
from pipeline.fidelity import LOWER_IS_BETTER, main_measure
from trainer.convergence.words import verdict_words
from trainer.run_folder import read_convergence, read_log, read_validation

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from evaluation.evaluate import Evaluation

INDEX = "figures.json"  # written last: a folder with it is complete
LARGEST = 512  # px; larger pictures are scaled down for the report
PAGE = 12.0  # inches that figures side by side may take
LABEL = 36  # characters of a label; a longer one is cut in the middle
GAP = 4  # px between the tiles of a grid
COLOURS = {
    "control": PALETTE[0], "shuffled": PALETTE[1], "prior": GREY, "autoencoder": PALETTE[5], "real": PALETTE[2],
    "folder": PALETTE[3],
}  # fmt: skip
ARM_NAMES = {"true": "true map", "shuffled": "another's map", "none": "no map"}
TITLES = {"loss": "Held-out loss", "fidelity": "Fidelity while training"}


def figures_folder(results: Path, subject: str, model: str, dataset: str, condition: str, recipe: str) -> Path:
    """Where the pictures of one evaluation of a subject go: a folder for each thing that tells rows apart."""
    from pipeline.contract.identity import fingerprint

    name = subject.replace("/", "-").replace(":", "-")
    return results / "figures" / f"{name}-{fingerprint([model, dataset, condition, recipe])[:8]}"


def draw_figures(work: Evaluation) -> Path:
    """Write pictures, grid, curves and ``figures.json`` of what was evaluated; returns the folder."""
    first = work.target.subjects[0]
    shown = [pictures for pictures in work.sets if pictures.subject.arm != "autoencoder"]
    own = next(pictures for pictures in shown if pictures.subject == first)
    folder = figures_folder(
        work.config.results, str(first), work.target.model_label, work.samples.name, work.samples.condition,
        work.recipe.label,
    )  # fmt: skip
    shutil.rmtree(folder, ignore_errors=True)
    scores = _shown_scores(work, own)
    tiles = [_tile(work, folder, shown, index, why, scores) for index, why in _choose(work, own, scores)]
    _write_grid(work, folder, shown, [tile["index"] for tile in tiles])
    run = work.target.runs[0] if len(work.target.runs) == 1 else None
    # a report is handed on: names, no places
    summary = {k: v for k, v in run.summary.items() if k != "dataset_path"} if run else {}
    index = {
        "subject": str(first),
        "subjects": [str(pictures.subject) for pictures in work.sets],
        "dataset": work.samples.name,
        "condition": work.samples.condition,
        "model": work.target.model_label,
        "recipe": {"label": work.recipe.label, **{k: str(v) for k, v in vars(work.recipe).items()}}
        if first.sampled
        else {},
        "cautions": cautions(len(own.indices), len(own.indices), work.judges.extractor.width),
        "summary": {k: v if isinstance(v, str) else canonical(v) for k, v in summary.items()},
        "judges": {"clip": work.judges.clip_id, "features": work.judges.extractor.name},
        "samples": len(work.samples),
        "groups": list(work.config.generation_groups),
        "measure": scores[0] if scores else "",
        "tiles": tiles,
        "curves": draw_curves(run.folder, folder / "curves.png") if run else False,
        "convergence": verdict_words(read_convergence(run.folder)) if run else "",
    }
    write_json(folder / INDEX, index)
    return folder


def _shown_scores(work: Evaluation, own: PictureSet) -> tuple[str, dict[str, Any], bool] | None:
    """Main measure, its scores of all samples by subject (NaN: no picture), and if lower is better."""
    annotators, _ = work.judges.annotators(work.samples)
    if not annotators:
        return None
    condition, annotator = next(iter(annotators.items()))
    measure = main_measure(annotator)
    scores = {}
    for pictures in work.sets:
        values = np.full(len(work.samples), np.nan)
        values[pictures.indices] = work.store.values(pictures, pictures.groups[0])[f"{condition}_{measure}"]
        scores[str(pictures.subject)] = values
    return f"{condition}_{measure}", scores, measure in LOWER_IS_BETTER


def _choose(work: Evaluation, own: PictureSet, scores: Any) -> list[tuple[int, str]]:
    """Samples to show and why: the best and the worst by the main measure, then the first ones in rank order."""
    count = min(work.config.pictures, len(own.indices))
    chosen: list[tuple[int, str]] = []
    if scores is not None and count >= 4:
        values = scores[1][str(own.subject)][own.indices]
        order = own.indices[np.argsort(-values if not scores[2] else values, kind="stable")]
        chosen = [(int(order[0]), "best"), (int(order[-1]), "worst")]
    rest = [(int(i), "") for i in own.indices if int(i) not in {index for index, _ in chosen}]
    return chosen + rest[: count - len(chosen)]


def _tile(work: Evaluation, folder: Path, shown: list[PictureSet], index: int, why: str, scores: Any) -> dict[str, Any]:
    """Write a sample's pictures; what the page needs to show them."""
    own = np.array([index])
    pictures: list[tuple[str, Any, float | None]] = [
        (name, work.samples.maps(name, own)[0][0], None) for name in work.samples.conditions
    ]
    for each in shown:
        if index in each.indices:
            value = None if scores is None else float(scores[1][str(each.subject)][index])
            pictures.append((str(each.subject), each.read(own, each.groups[0])[0], value))
    files = []
    for place, (name, picture, value) in enumerate(pictures):
        file = f"tile-{index:05d}-{place}.png"
        write_picture(folder / file, _shrink(picture))
        files.append({"name": name, "file": file, "score": value})
    return {
        "index": index,
        "key": work.samples.keys[index],
        "text": work.samples.texts[index],
        "why": why,
        "files": files,
    }


def _write_grid(work: Evaluation, folder: Path, shown: list[PictureSet], indices: list[int]) -> None:
    own = np.array(indices)
    columns = [work.samples.maps(name, own)[0] for name in work.samples.conditions]
    columns += [each.read(own, each.groups[0]) for each in shown]
    tiles = [Tile((picture,)) for sample in zip(*columns, strict=True) for picture in sample]
    sheet = picture_sheet(tiles, len(columns), min(LARGEST, work.samples.size), GAP)
    with atomic(folder / "grid.png") as temporary:
        sheet.save(temporary, "PNG")


def draw_curves(run_dir: Path, path: Path) -> bool:
    """Held-out loss, fidelity and training loss of a run side by side; False when it recorded none of them."""
    table, log, verdict = read_validation(run_dir), read_log(run_dir), read_convergence(run_dir)
    table = table[table["arm"].isin(ARM_NAMES)] if len(table) else table
    panels = [metric for metric in TITLES if len(table) and (table["metric"] == metric).any()]
    panels += ["log"] if len(log) else []
    if not panels:
        return False
    figure, axes = new_figure(3.3 * len(panels), 2.7, 1, len(panels))
    for axis, panel in zip(axes[0], panels, strict=True):
        if panel == "log":
            _plot_log(axis, log)
        else:
            _plot_validation(axis, table[table["metric"] == panel], panel, verdict)
    save_figure(figure, path)
    return True


def _plot_validation(axis: Axes, frame: pd.DataFrame, metric: str, verdict: dict[str, Any]) -> None:
    colours = {"true": COLOURS["control"], "shuffled": COLOURS["shuffled"], "none": COLOURS["prior"]}
    for name, rows in frame.sort_values("step").groupby("arm"):
        colour = colours[str(name)]
        axis.fill_between(rows.step, rows.ci_low, rows.ci_high, color=colour, alpha=0.15, linewidth=0)
        axis.plot(rows.step, rows.value, "o-", markersize=3, label=ARM_NAMES[str(name)], color=colour)
    if verdict.get("interval"):
        axis.axvspan(*verdict["interval"], color="#555555", alpha=0.12, linewidth=0)
        axis.axvline(verdict["step"], color="#555555", linewidth=1, linestyle="--", label="converged")
    axis.set(xlabel="step", title=TITLES[metric])
    axis.legend(frameon=False, fontsize=7.5)


def _plot_log(axis: Axes, frame: pd.DataFrame) -> None:
    axis.plot(frame.step, frame.loss, color="#bbbbbb", linewidth=1, label="logged")
    smooth = frame.loss.ewm(halflife=max(len(frame) / 20, 1)).mean()
    axis.plot(frame.step, smooth, color=COLOURS["control"], label="smoothed")
    axis.set(xlabel="step", title="Training loss")
    axis.legend(frameon=False, fontsize=7.5)


def draw_points(groups: list[tuple[str, pd.DataFrame]], path: Path) -> None:
    """Panels side by side, one a metric: a point for each row with its interval. ``groups`` holds (title, rows)."""
    width = 2.6 + 0.06 * min(max(len(label) for _, rows in groups for label in rows["label"]), LABEL)
    columns = max(1, min(int(PAGE / width), len(groups)))
    lines = -(-len(groups) // columns)
    height = 0.24 * max(len(rows) for _, rows in groups) + 0.75
    figure, grid = new_figure(width * columns, height * lines, lines, columns)
    axes = [axis for row in grid for axis in row]
    for axis in axes[len(groups) :]:
        axis.set_axis_off()
    for axis, (title, rows) in zip(axes, groups, strict=False):
        limits = rows[["value", "ci_low", "ci_high"]].astype("float64")
        limits = limits.fillna({"ci_low": limits.value, "ci_high": limits.value})  # a single sample has no interval
        for place, (arm, (value, low, high)) in enumerate(zip(rows["arm"], limits.to_numpy(), strict=True)):
            colour = COLOURS.get(str(arm), GREY)
            axis.plot([low, high], [place, place], color=colour, linewidth=3, solid_capstyle="butt", alpha=0.6)
            axis.plot([value], [place], "o", color=colour, markersize=4)
        axis.set_yticks(range(len(rows)), [_cut(str(label)) for label in rows["label"]], fontsize=7)
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set_title(title, loc="left", fontsize=9)
        axis.grid(axis="x", alpha=0.3)
    save_figure(figure, path)


def _cut(label: str) -> str:
    return label if len(label) <= LABEL else f"{label[: LABEL // 2]}…{label[-LABEL // 2 :]}"


def draw_learning(groups: list[tuple[str, pd.DataFrame]], path: Path) -> None:
    """A panel a metric: value against the number of training samples, one point a run, line through the means."""
    columns = min(3, len(groups))
    lines = -(-len(groups) // columns)
    figure, grid = new_figure(3.4 * columns, 2.6 * lines, lines, columns)
    axes = [axis for row in grid for axis in row]
    for axis in axes[len(groups) :]:
        axis.set_axis_off()
    for axis, (title, rows) in zip(axes, groups, strict=False):
        frame = rows.astype({"value": "float64", "subset_size": "float64"})
        for place, (line, own) in enumerate(frame.groupby("line", sort=False)):
            colour = PALETTE[place % len(PALETTE)]
            means = own.groupby("subset_size").value.mean()
            axis.plot(own.subset_size, own.value, "o", color=colour, alpha=0.5, markersize=4)
            axis.plot(means.index, means, "-", color=colour, label=str(line))
        axis.set_xscale("log")
        axis.set_xlabel("training samples", fontsize=8)
        axis.set_title(title, loc="left", fontsize=9)
        axis.legend(frameon=False, fontsize=7)
    save_figure(figure, path)


def _shrink(picture: Any) -> Any:
    if max(picture.shape[:2]) <= LARGEST:
        return picture
    small = Image.fromarray(picture)
    small.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    return np.asarray(small)
