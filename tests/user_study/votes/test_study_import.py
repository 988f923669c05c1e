from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from study_answers import TRIALS, a_wins, load, page, table, taken, votes_of, write
from study_world import RUN_A, RUN_B, World, answer, prefer, sealed, with_seal

from pipeline.contract.errors import CnlabError
from pipeline.contract.files import read_json, write_json
from user_study.config import Import, Simulate
from user_study.study_folder import COLUMNS
from user_study.votes.collect import import_answers
from user_study.votes.rows import migrate
from user_study.votes.simulate import simulate_study


def test_answers_become_votes_and_rows(world: World) -> None:
    study = world.make()
    write_json(world.root / "runs" / RUN_A / "summary.json", {"subset_size": 50_000, "train_seed": 3, "step": 700})

    def wish(entry: dict[str, Any]) -> str:
        return {"i001": "tie", "i002": "unseen", "i003": "b"}.get(entry["item"], "a")

    load(world, write(world.root / "in", [answer(page(study, n), f"r{n}", prefer(study, wish)) for n in (1, 2)]))
    votes = votes_of(study)
    assert tuple(votes.columns) == COLUMNS
    assert len(votes) == 2 * TRIALS and votes["rater"].nunique() == 2
    assert set(votes["kind"]) == {"pair", "repeat", "catch"}
    assert {RUN_A, RUN_B, "tie", "unseen"} == set(votes[votes["kind"] == "pair"]["winner"])
    pairs = votes[votes["kind"] == "pair"]
    assert all(part["shown"].nunique() == 2 for _, part in pairs.groupby("item"))  # each pair was shown both ways
    assert pairs["key"].str.startswith("secretkey/").all()

    rows = table(world)
    win = rows.loc["study_win_rate"]
    assert (win["run"], win["against"], win["dataset"], win["condition"]) == (RUN_A, RUN_B, "tiny", "canny")
    assert (win["value"], win["n"], win["metric_version"]) == (14 / 16, 16, "2")
    assert win["interval"] == "raters and items"
    assert (win["subset_size"], win["train_seed"], win["step"]) == (50_000, 3, 700)
    assert (rows.loc["study_tie_rate", "value"], rows.loc["study_tie_rate", "n"]) == (2 / 18, 18)
    analysis = read_json(study / "analysis.json")
    assert analysis["repeats"]["value"] == 1 and analysis["catch"] == {"trials": 8, "failed": 0}
    assert analysis["left_share"]["value"] == 0.5 and analysis["unseen"] == 2
    html = (study / "report.html").read_text(encoding="utf-8")
    assert "<h1>User study" in html and "SIMULATED" not in html


def test_importing_again_changes_nothing_and_new_raters_are_added(world: World) -> None:
    study = world.make()
    folder = write(world.root / "in", [answer(page(study), f"r{n}", prefer(study, a_wins)) for n in (1, 2)])
    load(world, folder)
    votes, rows = (study / "votes.parquet").read_bytes(), (world.config.results / "results.parquet").read_bytes()
    load(world, folder, folder / "0.json")
    assert (study / "votes.parquet").read_bytes() == votes
    assert (world.config.results / "results.parquet").read_bytes() == rows
    load(world, write(world.root / "more", [answer(page(study, 2), "r3", prefer(study, a_wins))]))
    assert table(world).loc["study_win_rate", "n"] == 30  # own rows replaced: one row a metric
    assert table(world).index.is_unique


def test_one_rater_gives_no_row(world: World) -> None:
    study = world.make()
    load(world, write(world.root / "in", [answer(page(study, n), "r1", prefer(study, a_wins)) for n in (1, 2)]))
    assert not len(table(world))  # one rater says nothing about raters
    assert "too few raters" in (study / "report.html").read_text()


def test_partial_files_are_joined(world: World) -> None:
    study = world.make()
    whole = answer(page(study), "r1", prefer(study, a_wins))
    part = sealed({**whole["payload"], "answers": whole["payload"]["answers"][:5], "finished": None})
    load(world, write(world.root / "in", [part]))
    assert len(votes_of(study)) == 5 and "10 of 15" in str(read_json(study / "refused.json"))
    load(world, write(world.root / "later", [whole]))
    assert len(votes_of(study)) == TRIALS
    load(world, write(world.root / "again", [part]))
    assert len(votes_of(study)) == TRIALS


Edit = Callable[[dict[str, Any]], None]


def set_payload(name: str, value: Any) -> Edit:
    return lambda payload: payload.__setitem__(name, value)


def set_answer(name: str, value: Any) -> Edit:
    return lambda payload: payload["answers"][0].__setitem__(name, value)


def flip(payload: dict[str, Any]) -> None:
    first = payload["answers"][0]
    first["choice"] = {"left": "right", "right": "left"}.get(first["choice"], "left")


# what was done to the second of two files, whether its seals were renewed, what is said, how many answers are lost
BROKEN: list[tuple[Edit, bool, str, int]] = [
    (flip, False, "answer 1: was edited", 1),
    (set_answer("response_ms", 1), False, "answer 1: was edited", 1),
    (set_payload("rater", "someone-else"), False, "was edited", TRIALS),
    (set_payload("study", "0" * 12), True, "belongs to study", TRIALS),
    (set_payload("sheet", "sheet-09"), True, "does not have", TRIALS),
    (set_payload("sheet", ["sheet-01"]), True, "does not have", TRIALS),
    (set_payload("sheet", "sheet-02"), True, "other contents", TRIALS),
    (set_payload("token", "0" * 64), True, "other contents", TRIALS),
    (set_payload("rater", "../../x"), True, "rater code", TRIALS),
    (set_payload("rater", ""), True, "rater code", TRIALS),
    (set_payload("started", "\ud800"), False, "was edited", 0),
    (set_payload("finished", [[["x"]]]), False, "was edited", 0),
    (set_payload("rater", "\ud800"), True, "rater code", TRIALS),
    (set_answer("choice", "\ud800"), True, "does not offer", 1),
    (set_payload("answers", []), True, "15 of 15 answers are not there", TRIALS),
    (lambda p: p["answers"].pop(), True, "1 of 15 answers are not there", 1),
    (lambda p: p["answers"].append(p["answers"][0]), True, "is there twice", 0),
    (set_answer("choice", "both"), True, "does not offer", 1),
    (set_answer("choice", ["left"]), True, "does not offer", 1),
    (set_answer("trial", 5), True, "is nowhere", 1),
    (set_answer("response_ms", -1), True, "response_ms", 1),
    (set_answer("response_ms", True), True, "response_ms", 1),
    (set_answer("response_ms", 1.5), True, "response_ms", 1),
    (set_answer("views", None), True, "views", 1),
    (set_answer("window", [1, "x"]), True, "window", 1),
    (lambda p: p["answers"][0].pop("views"), True, "no answer that a sheet writes", 1),
]


@pytest.mark.parametrize(("edit", "renew", "message", "lost"), BROKEN)
def test_the_good_trials_of_a_bad_file_count(
    fixed: World, tmp_path: Path, edit: Edit, renew: bool, message: str, lost: int
) -> None:
    good, document = (answer(page(fixed.study), rater, prefer(fixed.study, a_wins)) for rater in ("ok", "r1"))
    edit(document["payload"])
    document = sealed(document["payload"]) if renew else document
    count, problems = taken(fixed.study, write(tmp_path, [good, document]))
    assert message in str(problems) and count == 2 * TRIALS - lost


def test_what_an_import_leaves_out_is_printed_and_written(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    study = world.make()
    good, document = (answer(page(study), rater, prefer(study, a_wins)) for rater in ("ok", "r1"))
    document["payload"]["started"] = "\ud800"  # half of a pair: no file can hold it
    flip(document["payload"])
    load(world, write(world.root / "in", [good, document]))
    assert "answer 1: was edited" in capsys.readouterr().out
    assert "answer 1: was edited" in str(read_json(study / "refused.json"))
    assert len(votes_of(study)) == 2 * TRIALS - 1


def test_trials_of_another_sheet(fixed: World, tmp_path: Path) -> None:
    first, second = (answer(page(fixed.study, n), "r1", prefer(fixed.study, a_wins))["payload"] for n in (1, 2))
    first["answers"][3:] = second["answers"][3:]
    count, problems = taken(fixed.study, write(tmp_path, [sealed(first)]))
    assert count == 3 and "is of sheet-02, not of sheet-01" in str(problems)


def test_a_rater_with_two_sessions_of_one_sheet(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    study = world.make()
    first = answer(page(study), "r1", prefer(study, a_wins))
    second = answer(page(study), "r1", prefer(study, lambda _: "b"))
    second = sealed({**second["payload"], "started": "2026-02-01T00:00:00.000Z"})
    load(world, write(world.root / "first", [second]))
    load(world, write(world.root / "second", [first]))
    assert "more than once" in capsys.readouterr().out
    pairs = votes_of(study).query("kind == 'pair'")
    assert set(pairs["winner"]) == {RUN_A}  # equally long: the earlier one, whatever came first


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


def test_two_opponents_of_one_run_have_two_rows(world: World) -> None:
    for out, other in (("s", RUN_B), ("t", f"{RUN_A}/prior")):
        study = world.make(out=world.root / "studies" / out, subjects=(RUN_A, other))
        folder = write(world.root / out, [answer(page(study), f"r{n}", prefer(study, a_wins)) for n in (1, 2)])
        import_answers(Import(study, (folder,), world.config.results))
    assert list(table(world).loc["study_win_rate", "against"]) == [RUN_B, f"{RUN_A}/prior"]


def test_rows_of_version_1_are_migrated() -> None:
    old = pd.DataFrame(
        {"metric": ["study_win_rate", "study_win_rate_two_way", "clip_score"], "metric_version": ["1", "1", "1"]}
    ).astype("string")
    assert list(migrate(old)["metric"]) == ["study_win_rate_if_independent", "study_win_rate", "clip_score"]
    assert migrate(migrate(old).iloc[:1]).equals(migrate(old).iloc[:1])


def test_simulated_votes_are_labelled_and_stay_out_of_the_results(world: World) -> None:
    study = world.make()
    simulate_study(Simulate(study, raters=6, careless=0, bursts=0))
    part = study / "simulated"
    assert votes_of(part)["simulated"].all() and not (study / "votes.parquet").exists()
    assert "SIMULATED" in (part / "report.html").read_text() and read_json(part / "analysis.json")["simulated"]
    assert all(read_json(path)["payload"]["simulated"] for path in (part / "answers").glob("*.json"))
    assert not (world.config.results / "results.parquet").exists()
    first = (part / "votes.parquet").read_bytes()
    simulate_study(Simulate(study, raters=6, careless=0, bursts=0))
    assert (part / "votes.parquet").read_bytes() == first


def test_seal_of_an_answer_is_what_the_format_says() -> None:
    from user_study.votes.answers import answer_seal

    entry = {"trial": "t1", "choice": "left"}
    assert answer_seal("token", "r", entry) == with_seal("token", "r", entry)["seal"]
