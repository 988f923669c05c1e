"""The report: one HTML page without a network, from the table and the figures of each evaluation."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pandas as pd

from evaluation.report.figures import INDEX, draw_learning, draw_points
from evaluation.report.spread import seed_resolution, variance_lines, variances
from evaluation.report.words import interval, meanings, number, verdict, words
from evaluation.results import read_results
from evaluation.scores import DIFFERENCE, FLOOR
from pipeline.contract.errors import CnlabError
from pipeline.contract.files import atomic, read_json
from pipeline.contract.identity import code_version

#: Arms in the order of the table's columns.
HEADINGS = {
    "control": "ControlNet, true map",
    "folder": "pictures",
    "shuffled": "ControlNet, another's map",
    "prior": "no ControlNet",
    "autoencoder": "real, through the autoencoder",
    "real": "real pictures",
}
MIME = {".png": "image/png", ".csv": "text/csv"}
#: Columns that tell rows of one subject and metric apart.
TELLS = ("dataset", "condition", "model", "recipe", "step", "gen_seed", "n")
MOST_LEARNING = 6  # panels of learning curves


def write_report(results: Path) -> Path:
    """Write ``report.html`` and its figures below ``results``; raises CnlabError when there is nothing to report."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    table = read_results(results)
    if table.empty:
        raise CnlabError(f"{results} holds no results yet; run cnlab-eval --run runs/ID first")
    sections = [_section(index.parent, table) for index in sorted(results.glob(f"figures/*/{INDEX}"))]
    environment = Environment(
        loader=PackageLoader("evaluation.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    page = environment.get_template("report.html").render(
        sections=sections,
        headings=HEADINGS,
        points=_points(results, table),
        learning=_learning(results, table),
        differences=_differences(table),
        variances=variance_lines(variances(results, table)),
        datasets=sorted(set(map(str, table.dataset))),
        rows=len(table),
        code=code_version(),
        meanings=meanings(set(map(str, table.metric))),
        csv=_inline(results / "results.csv"),
    )
    path = results / "report.html"
    with atomic(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _section(folder: Path, table: pd.DataFrame) -> dict[str, Any]:
    """What the template needs for one evaluation."""
    index = read_json(folder / INDEX)
    own = _rows_of(index, table)
    main = index["measure"]
    metrics = sorted(set(map(str, own.metric)), key=lambda m: (not m.startswith(main) if main else False, m))
    first = own[own.gen_seed.isna() | (own.gen_seed == index["groups"][0])]
    for tile in index["tiles"]:
        for file in tile["files"]:
            file["uri"] = _inline(folder / Path(file["file"]).name)
            file["score"] = "" if file["score"] is None else number(file["score"])
    return {
        "cautions": [],  # of folders written before they were told
        **index,
        "anchor": folder.name,
        "measure_words": words(main) if main else "",
        "verdict": verdict(first, index["subject"]),
        "arms": [arm for arm in HEADINGS if (own.arm == arm).any()],
        "table": [(words(m), _better(own, m), _cells(own[own.metric == m])) for m in metrics],
        "curves": _inline(folder / "curves.png") if index["curves"] else None,
    }


def _rows_of(index: dict[str, Any], table: pd.DataFrame) -> pd.DataFrame:
    """Rows of an evaluation: its subjects on its dataset, by its recipe and model, the largest n of each."""
    rows = table[
        table.run.isin(index["subjects"])
        & (table.dataset == index["dataset"])
        & (table.condition == index["condition"])
        & table.against.isna()
        & (table.model.isna() | (table.model == index["model"]))
        & (table.recipe.isna() | (table.arm == "prior") | (table.recipe == index["recipe"].get("label")))
    ]
    same = ["run", "metric", "gen_seed"]
    latest: pd.DataFrame = rows.sort_values("n", kind="stable").drop_duplicates(same, keep="last")
    return latest


def _better(rows: pd.DataFrame, metric: str) -> str:
    """An arrow to where better is; none for a floor, which is no achievement, nor for the geometry of a set."""
    better = rows[rows.metric == metric].higher_is_better.iloc[0]
    if metric.endswith(FLOOR) or pd.isna(better):
        return ""
    return "↑" if better else "↓"


def _cells(rows: pd.DataFrame) -> dict[str, list[tuple[str, str, str]]]:
    """Arm -> (value, interval, n) as text, one for each generation seed."""
    cells: dict[str, list[tuple[str, str, str]]] = {}
    for row in rows.sort_values("gen_seed").itertuples():
        cells.setdefault(str(row.arm), []).append((number(float(row.value)), interval(row), f"n = {row.n}"))  # type: ignore[arg-type]
    return cells


def _points(results: Path, table: pd.DataFrame) -> str:
    """Every row of the table as a point with its interval, a panel a metric."""
    own = table[table.against.isna() & ~table.metric.str.endswith(FLOOR)].copy()
    own["label"] = _labels(own)
    path = results / "figures" / "metrics.png"
    draw_points([(words(str(name)), rows) for name, rows in own.groupby("metric")], path)
    return _inline(path)


def _labels(rows: pd.DataFrame) -> list[str]:
    """Subjects; one that occurs more than once in a metric with what tells its rows apart."""
    labels: dict[Any, str] = dict(rows.run.astype(str).items())
    for _, same in rows.groupby(["run", "metric"]):
        tells = [name for name in TELLS if same[name].nunique(dropna=False) > 1]
        for place, row in same[tells].iterrows():
            facts = [
                str(value) if name in ("model", "recipe", "dataset", "condition") else f"{name} {value}"
                for name, value in row.items()
                if not pd.isna(value)
            ]
            labels[place] += f" ({', '.join(facts)})" if facts else ""
    return [labels[place] for place in rows.index]


def _learning(results: Path, table: pd.DataFrame) -> str:
    """Value against the number of training samples, a line for what was trained and scored alike; "" without one."""
    own = table[(table.arm == "control") & table.subset_size.notna() & table.against.isna()]
    own = own[~own.metric.str.endswith(FLOOR)]
    alike = ["metric", "metric_version", *TELLS[:5], "variant", "fault", "dose", "selection"]
    own = own[own.groupby(alike, dropna=False).subset_size.transform("nunique") > 1]
    groups = [(words(str(name)), rows) for name, rows in own.groupby("metric")][:MOST_LEARNING]
    if not groups:
        return ""
    for _, rows in groups:
        tells = [name for name in alike[2:] if name != "step" and rows[name].nunique(dropna=False) > 1]
        rows["line"] = [", ".join([f"{row.step} steps", *map(str, row[tells].dropna())]) for _, row in rows.iterrows()]
    path = results / "figures" / "learning.png"
    draw_learning(groups, path)
    return _inline(path)


def _differences(table: pd.DataFrame) -> list[dict[str, str]]:
    """Rows of `cnlab-eval compare` and of studies, as text."""
    rows: list[Any] = list(table[table.against.notna()].itertuples())
    return [
        {
            "subject": str(row.run),
            "against": str(row.against),
            "metric": words(str(row.metric).removesuffix(DIFFERENCE)),
            "value": f"{row.value:+.3g}" if str(row.metric).endswith(DIFFERENCE) else number(float(row.value)),
            "interval": interval(row),
            "n": str(row.n),
            "seeds": _seeds(table, row),
        }
        for row in rows
    ]


def _seeds(table: pd.DataFrame, row: Any) -> str:
    """Whether a difference is larger than what training seeds alone make, where that was measured."""
    if not str(row.metric).endswith(DIFFERENCE):
        return ""
    least, runs = seed_resolution(table, row._asdict())
    if least is None:
        return "not known"
    return f"{'below' if abs(row.value) < least else 'above'} resolution ({least:.2g}, {runs} runs)"


def _inline(path: Path) -> str:
    """A file as a data URI, so that the page can be mailed as one file."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise CnlabError(f"{path} is missing; evaluate that subject again") from error
    return f"data:{MIME[path.suffix]};base64," + base64.b64encode(data).decode()
