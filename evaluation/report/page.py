"""The report: one HTML page without a network, from the table and the figures of each run."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.report.figures import INDEX, arm_of, draw_bars
from evaluation.report.words import meanings, words
from evaluation.results import read_results
from pipeline.contract.errors import CnlabError
from pipeline.contract.files import atomic, read_json
from pipeline.contract.identity import code_version

if TYPE_CHECKING:
    import pandas as pd

#: Arms in the order of the table's columns: what is judged, its floor, its ceiling, and the rest.
HEADINGS = {
    "control": "ControlNet, true map",
    "shuffled": "another's map (floor)",
    "real": "real pictures (ceiling)",
    "prior": "no ControlNet",
    "real/vae": "real, through the autoencoder",
}


def write_report(results: Path) -> Path:
    """Write ``report.html`` and ``figures/metrics.png`` below ``results``; raises CnlabError when there is nothing."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    table = read_results(results)
    if table.empty:
        raise CnlabError(f"{results} holds no results yet; run make eval first")
    metrics = results / "figures" / "metrics.png"
    draw_bars([(words(str(name)), rows) for name, rows in table.groupby("metric")], metrics)
    runs = [_run_section(index.parent, table) for index in sorted(results.glob(f"figures/*/{INDEX}"))]
    environment = Environment(
        loader=PackageLoader("evaluation.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    page = environment.get_template("report.html").render(
        runs=runs,
        headings=HEADINGS,
        others=sorted(set(map(str, table.run)) - {name for run in runs for name in run["names"]}),
        metrics=_inline(metrics),
        datasets=sorted(set(map(str, table.dataset))),
        code=code_version(),
        meanings=meanings(set(map(str, table.metric))),
    )
    path = results / "report.html"
    with atomic(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _run_section(folder: Path, table: pd.DataFrame) -> dict[str, Any]:
    """What the template needs for one run: headline table, tiles as data URIs, curves, facts."""
    index = read_json(folder / INDEX)
    run = index["run"]
    names = ["real", "real/vae", run, f"{run}/prior", f"{run}/shuffled"]
    own = table[table.run.isin(names) & (table.condition == index["condition"])]
    metrics = list(dict.fromkeys(own.metric.sort_values()))
    return {
        "verdict": "",  # of runs that were evaluated before it was told here
        **index,
        "names": names,
        "arms": [arm for arm in HEADINGS if any(arm_of(str(name)) == arm for name in own.run)],
        "table": [(words(str(m)), _cells(own[own.metric == m])) for m in metrics],
        "tiles": [
            {**tile, "images": {name: _inline(folder / Path(file).name) for name, file in tile["files"]}}
            for tile in index["tiles"]
        ],
        "curves": _inline(folder / "curves.png") if index["curves"] else None,
    }


def _cells(rows: pd.DataFrame) -> dict[str, list[tuple[str, str]]]:
    """Arm -> (value, interval) as text, one for each generation seed."""
    cells: dict[str, list[tuple[str, str]]] = {}
    for row in rows.sort_values("gen_seed").to_dict("records"):
        cells.setdefault(arm_of(str(row["run"])), []).append((_number(row["value"]), _interval(row)))
    return cells


def _number(value: float) -> str:
    """Three significant digits, no exponent: 0.42, 11.9, 458."""
    size = abs(value)
    return (
        f"{value:.0f}"
        if size >= 100
        else f"{value:.1f}"
        if size >= 10
        else f"{value:.2f}"
        if size >= 1
        else f"{value:.3f}"
    )


def _interval(row: dict[Any, Any]) -> str:
    import pandas as pd

    return "" if pd.isna(row["ci_low"]) else f"[{_number(row['ci_low'])}, {_number(row['ci_high'])}]"


def _inline(path: Path) -> str:
    """A PNG file as a data URI, so that the page can be mailed as one file."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise CnlabError(f"{path} is missing; evaluate that run again") from error
    return "data:image/png;base64," + base64.b64encode(data).decode()
