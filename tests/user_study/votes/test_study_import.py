from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from study_world import RUN_A, RUN_B, World, answer, prefer, sealed

from pipeline.contract.errors import CnlabError
from pipeline.contract.files import read_json, write_json
from user_study.analysis.statistics import clopper_pearson
from user_study.config import Import
from user_study.votes.collect import COLUMNS, import_answers


def a_wins(_: dict[str, Any]) -> str:
    return "a"


def page(study: Path, number: int = 1) -> Path:
    return study / "sheets" / f"sheet-{number:02d}.html"


def write(folder: Path, documents: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for n, document in enumerate(documents):
        (folder / f"{n}.json").write_text(json.dumps(document, indent=1))
    return folder


def load(world: World, *paths: Path, label: str = "") -> None:
    import_answers(Import(world.study, paths, world.config.results, world.root / "runs", label))


def table(world: World) -> pd.DataFrame:
    return pd.read_parquet(world.config.results / "results.parquet").set_index("metric")


def test_answers_become_votes_and_rows(world: World) -> None:
    study = world.make()
    write_json(world.root / "runs" / RUN_A / "summary.json", {"subset_size": 50_000, "train_seed": 3, "step": 700})

    def wish(entry: dict[str, Any]) -> str:
        return {"i001": "tie", "i002": "unseen", "i003": "b"}.get(entry["item"], "a")

    documents = [answer(page(study, n), f"r{n}", prefer(study, wish)) for n in (1, 2)]
    load(world, write(world.root / "in", documents))

    votes = pd.read_parquet(study / "votes.parquet")
    assert tuple(votes.columns) == COLUMNS
    assert len(votes) == 26 and votes["rater"].nunique() == 2
    assert set(votes["kind"]) == {"pair", "repeat", "catch"}
    assert set(votes["winner"]) == {RUN_A, RUN_B, "tie", "unseen"}
    chosen = votes[votes["choice"] == "left"]
    assert (chosen["winner"] == chosen["left"]).all()
    # each pair was shown both ways
    pairs = votes[votes["kind"] == "pair"]
    assert all(set(part["left"]) == {RUN_A, RUN_B} for _, part in pairs.groupby("item"))

    rows = table(world)
    win = rows.loc["study_win_rate"]
    assert (win["run"], win["dataset"], win["condition"], win["split"]) == (RUN_A, "tiny", "canny", "eval")
    assert (win["value"], win["n"]) == (14 / 16, 16)
    assert (win["ci_low"], win["ci_high"]) == pytest.approx(clopper_pearson(14, 16))
    assert (win["subset_size"], win["train_seed"], win["step"]) == (50_000, 3, 700)
    assert (rows.loc["study_tie_rate", "value"], rows.loc["study_tie_rate", "n"]) == (2 / 18, 18)
    two_way = rows.loc["study_win_rate_two_way"]
    assert two_way["ci_low"] < win["ci_low"] and two_way["value"] == win["value"]
    assert (world.config.results / "results.csv").exists()

    analysis = read_json(study / "analysis.json")
    assert analysis["repeats"]["value"] == 1 and analysis["catch"]["failed"] == 0
    assert analysis["left_share"]["value"] == 0.5 and analysis["unseen"] == 2


def test_importing_again_changes_nothing_and_new_raters_are_added(world: World) -> None:
    study = world.make()
    folder = write(world.root / "in", [answer(page(study), "r1", prefer(study, a_wins))])
    load(world, folder)
    votes, rows = (study / "votes.parquet").read_bytes(), (world.config.results / "results.parquet").read_bytes()
    load(world, folder, folder / "0.json")
    assert (study / "votes.parquet").read_bytes() == votes
    assert (world.config.results / "results.parquet").read_bytes() == rows
    load(world, write(world.root / "more", [answer(page(study, 2), "r2", prefer(study, a_wins))]))
    assert table(world).loc["study_win_rate", "n"] == 20
    assert len(table(world)) == 3  # own rows replaced


def test_one_rater_may_fill_both_sheets(world: World) -> None:
    study = world.make()
    load(world, write(world.root / "in", [answer(page(study, n), "r1", prefer(study, a_wins)) for n in (1, 2)]))
    assert "study_win_rate_two_way" not in table(world).index  # one rater says nothing about raters


def test_only_ties_give_no_win_rate(world: World) -> None:
    study = world.make()
    load(world, write(world.root / "in", [answer(page(study), "r1", prefer(study, lambda _: "tie"))]))
    assert list(table(world).index) == ["study_tie_rate"]


Edit = Callable[[dict[str, Any]], None]


def set_payload(name: str, value: Any) -> Edit:
    return lambda payload: payload.__setitem__(name, value)


def set_answer(name: str, value: Any) -> Edit:
    return lambda payload: payload["answers"][0].__setitem__(name, value)


def flip(payload: dict[str, Any]) -> None:
    first = payload["answers"][0]
    first["choice"] = {"left": "right", "right": "left"}.get(first["choice"], "left")


UNSEALED: list[tuple[Edit, str]] = [
    (flip, "was edited"),
    (set_answer("response_ms", 1), "was edited"),
    (set_payload("rater", "someone-else"), "was edited"),
    (set_payload("rater", "\ud800"), "was edited"),
]
# edits by someone who also renews the seal
RESEALED: list[tuple[Edit, str]] = [
    (set_payload("study", "0" * 12), "belongs to study"),
    (set_payload("sheet", "sheet-09"), "has no sheet"),
    (set_payload("sheet", ["sheet-01"]), "has no sheet"),
    (set_payload("sheet", "sheet-02"), "other contents"),
    (set_payload("token", "0" * 64), "other contents"),
    (set_payload("seed", "0" * 16), "seed"),
    (set_payload("rater", "../../x"), "rater code"),
    (set_payload("rater", ""), "rater code"),
    (set_payload("rater", "r2"), "not in the order"),
    (set_payload("order", []), "not in the order"),
    (set_payload("more", 1), "parts missing or added"),
    (lambda p: p["answers"].pop(), "lacks 1 of 13"),
    (lambda p: p["answers"].clear(), "lacks 13 of 13"),
    (lambda p: p["answers"].append(p["answers"][0]), "not in the order"),
    (lambda p: p["answers"].reverse(), "not in the order"),
    (set_answer("choice", "both"), "no sheet writes"),
    (set_answer("choice", ["left"]), "no sheet writes"),
    (set_answer("trial", 5), "no sheet writes"),
    (set_answer("note", "x"), "no sheet writes"),
    (set_answer("response_ms", -1), "response_ms"),
    (set_answer("response_ms", True), "response_ms"),
    (set_answer("response_ms", 1.5), "response_ms"),
    (set_answer("views", None), "views"),
    (set_answer("window", [1, "x"]), "window"),
]


@pytest.mark.parametrize(("edit", "message", "renew"), [(*e, False) for e in UNSEALED] + [(*e, True) for e in RESEALED])
def test_an_answer_file_that_is_not_as_the_sheet_wrote_it(world: World, edit: Edit, message: str, renew: bool) -> None:
    study = world.make()
    good, document = (answer(page(study), rater, prefer(study, a_wins)) for rater in ("ok", "r1"))
    edit(document["payload"])
    document = sealed(document["payload"]) if renew else document
    with pytest.raises(CnlabError, match=message):
        load(world, write(world.root / "in", [good, document]))
    # the good file beside it was not imported either
    assert not (study / "votes.parquet").exists()
    assert not (study / "answers").exists()
    assert not (world.config.results / "results.parquet").exists()


def test_mixed_sheets(world: World) -> None:
    study = world.make()
    one, two = (answer(page(study, n), "r1", prefer(study, a_wins))["payload"] for n in (1, 2))
    one["answers"][3:] = two["answers"][3:]
    with pytest.raises(CnlabError, match="mixes trials"):
        load(world, write(world.root / "in", [sealed(one)]))


def test_a_foreign_study(world: World) -> None:
    other = world.make(seed=5, out=world.root / "studies" / "other")
    world.make()
    with pytest.raises(CnlabError, match="belongs to study"):
        load(world, write(world.root / "in", [answer(page(other), "r1", prefer(other, a_wins))]))


@pytest.mark.parametrize("when", ["together", "later"])
def test_a_rater_with_two_versions_of_one_sheet(world: World, when: str) -> None:
    study = world.make()
    first = answer(page(study), "r1", prefer(study, a_wins))
    second = answer(page(study), "r1", prefer(study, lambda _: "b"))
    if when == "later":
        load(world, write(world.root / "first", [first]))
        before = (study / "votes.parquet").read_bytes()
        with pytest.raises(CnlabError, match="other answers"):
            load(world, write(world.root / "second", [second]))
        assert (study / "votes.parquet").read_bytes() == before
    else:
        with pytest.raises(CnlabError, match="other answers"):
            load(world, write(world.root / "both", [first, second]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("\udcff", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "not an answer file"),
        ('{"format": "x"}', "not an answer file"),
        ('{"format": "picture-answers", "version": 2}', "answer format 2"),
        ('{"format": "picture-answers", "version": 1}', "parts missing"),
        (" " * 5_000_000, "too large"),
    ],
    ids=range(8),
)
def test_files_that_are_no_answers(world: World, text: str, message: str) -> None:
    world.make()
    path = world.root / "x.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(CnlabError, match=message):
        load(world, path)


def test_paths_without_answers(world: World) -> None:
    world.make()
    (world.root / "empty").mkdir()
    for paths, message in (
        ((world.root / "empty",), "no .json"),
        ((world.root / "no",), "not exist"),
        ((), "no answer"),
    ):
        with pytest.raises(CnlabError, match=message):
            load(world, *paths)


def test_changed_key_or_sheet(world: World) -> None:
    study = world.make()
    folder = write(world.root / "in", [answer(page(study), "r1", prefer(study, a_wins))])
    for path in (study / "key.json", page(study)):
        original = path.read_bytes()
        path.write_bytes(original + b"\n")
        with pytest.raises(CnlabError, match="changed after the study"):
            load(world, folder)
        path.write_bytes(original)
    page(study, 2).unlink()  # a sheet that was given away is no obstacle
    load(world, folder)


def test_an_edited_copy_of_a_sheet(world: World) -> None:
    study = world.make()
    copy_page = world.root / "copy.html"
    copy_page.write_text(
        page(study).read_text(encoding="utf-8").replace("follows the edge map", "is older"), encoding="utf-8"
    )
    with pytest.raises(CnlabError, match="other contents"):
        load(world, write(world.root / "in", [answer(copy_page, "r1", prefer(study, a_wins))]))


def test_unfinished_study(world: World) -> None:
    study = world.make()
    (study / "study.json").unlink()
    with pytest.raises(CnlabError, match=r"study\.json does not exist"):
        load(world, world.root)
    (study / "study.json").write_text("{}")
    with pytest.raises(CnlabError, match="not the header of a study"):
        load(world, world.root)
    with pytest.raises(CnlabError, match="does not exist"):
        import_answers(Import(world.root / "typo", (world.root,)))
    assert not (world.root / "typo").exists()


def test_a_second_study_of_the_same_run_needs_a_label(world: World) -> None:
    study = world.make()
    load(world, write(world.root / "in", [answer(page(study), "r1", prefer(study, a_wins))]))
    other = World(world.root, replace(world.config, out=world.root / "studies" / "t", b=f"{RUN_A}/prior"))
    folder = write(world.root / "in2", [answer(page(other.make()), "r1", prefer(other.study, a_wins))])
    with pytest.raises(CnlabError, match="--label"):
        load(other, folder)
    load(other, folder, label="vs_none")
    assert {"study_win_rate", "study_win_rate_vs_none"} <= set(table(world).index)
