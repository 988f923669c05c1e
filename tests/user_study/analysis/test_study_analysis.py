from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from study_world import RUN_A, World, answer, prefer

from pipeline.contract.errors import CnlabError
from pipeline.contract.files import read_json
from user_study.analysis.report import analyse, analyse_study, report
from user_study.cli import run
from user_study.config import Analyse, Import, Make
from user_study.votes.collect import COLUMNS, import_answers

NAMES = {"a": "x", "b": "y"}


def vote(rater: str, item: str, choice: str, left: str = "x", right: str = "y", kind: str = "pair") -> tuple[Any, ...]:
    winner = {"left": left, "right": right}.get(choice, choice)
    return ("s", "sheet-01", rater, f"t-{item}-{kind}", item, kind, left, right, choice, winner, 1000)


def votes(*rows: tuple[Any, ...]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(COLUMNS))


def test_figures_by_hand() -> None:
    result = analyse(
        votes(
            vote("r1", "i1", "left"),
            vote("r1", "i2", "left", "y", "x"),
            vote("r1", "i3", "tie"),
            vote("r2", "i1", "left"),
            vote("r2", "i2", "right", "y", "x"),
            vote("r2", "i3", "unseen"),
            vote("r1", "i1", "right", "y", "x", "repeat"),
            vote("r2", "i1", "right", "x", "y", "repeat"),
        ),
        NAMES,
        catch_allowed=1,
        margin=0.1,
    )
    assert (result["win_rate"]["value"], result["win_rate"]["n"]) == (0.75, 4)
    assert result["win_rate_ties_half"] == pytest.approx(3.5 / 5)
    assert result["sign_test_p"] == pytest.approx(2 * (1 + 4) / 16)
    assert (result["tie_rate"]["value"], result["unseen"]) == (1 / 5, 1)
    assert result["left_share"]["value"] == 0.75
    assert [(r["rater"], r["value"]) for r in result["raters"]] == [("r1", 0.5), ("r2", 1.0)]
    assert (result["repeats"]["value"], result["repeats"]["n"]) == (0.5, 2)
    assert result["win_rate_two_way"]["ci_low"] <= result["win_rate"]["ci_low"]
    assert "win rate of A, exact: 0.750" in report(result)


@pytest.mark.parametrize(
    ("choices", "failed"),
    [
        (("right", "tie"), 0),
        (("left", "tie"), 1),
        (("tie", "tie"), 1),
        (("right", "left"), 1),
        (("unseen", "right"), 2),
    ],
)
def test_catch_trials_and_exclusion(choices: tuple[str, str], failed: int) -> None:
    frame = votes(
        vote("r1", "i1", "left"),
        vote("r1", "c1", choices[0], "x (scrambled)", "x", "catch"),
        vote("r1", "c2", choices[1], "x", "x", "catch"),
        vote("r2", "i1", "right"),
    )
    strict, lenient = (analyse(frame, NAMES, allowed, 0.1) for allowed in (0, 2))
    assert strict["catch"]["failed"] == lenient["catch"]["failed"] == failed
    assert strict["excluded"] == ([{"sheet": "sheet-01", "rater": "r1", "failed": failed}] if failed else [])
    assert strict["win_rate"]["n"] == (1 if failed else 2)
    assert lenient["win_rate"]["n"] == 2  # catch trials never count as votes


def test_nothing_left_is_said_and_not_a_number() -> None:
    result = analyse(votes(vote("r1", "c2", "left", "x", "x", "catch")), NAMES, 0, 0.1)
    assert result["win_rate"] is result["tie_rate"] is result["win_rate_two_way"] is result["repeats"] is None
    assert result["sign_test_p"] == 1
    assert "no votes" in report(result)
    json.dumps(result, allow_nan=False)


def test_analyse_command(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    study = world.make()
    with pytest.raises(CnlabError, match="import answers first"):
        analyse_study(study)
    path = world.root / "a.json"
    path.write_text(json.dumps(answer(study / "sheets" / "sheet-01.html", "r1", prefer(study, lambda _: "a"))))
    import_answers(Import(study, (path,), world.config.results))
    first = (study / "analysis.json").read_bytes()
    capsys.readouterr()
    run(Analyse(study))
    assert f"A = {RUN_A}" in capsys.readouterr().out
    assert (study / "analysis.json").read_bytes() == first
    assert read_json(study / "analysis.json")["sign_test_p"] == pytest.approx(2 * 0.5**10)
    (study / "votes.parquet").write_bytes(b"PAR1")
    with pytest.raises(CnlabError, match="cannot be read"):
        analyse_study(study)


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    code = "from user_study.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=120
    )


def test_command_line_from_make_to_import(world: World) -> None:
    config = world.config
    sides = ("--a", config.a, "--b", config.b, "--dataset", config.dataset, "--results", config.results)
    made = command("make", *sides, "--out", config.out, "--items", "6")
    assert made.returncode == 0, made.stderr
    path = world.root / "a.json"
    path.write_text(
        json.dumps(answer(config.out / "sheets" / "sheet-01.html", "r1", prefer(config.out, lambda _: "a")))
    )
    imported = command("import", path, "--study", config.out, "--results", config.results)
    assert imported.returncode == 0, imported.stderr
    assert "1.000 [0.541, 1.000], n = 6" in imported.stdout
    again = command("make", *sides, "--out", config.out, "--items", "7")
    assert again.returncode == 2 and again.stderr.startswith("error: ") and again.stderr.count("\n") == 1


def test_help_needs_no_heavy_library() -> None:
    code = (
        "import sys\ntry:\n    from user_study.cli import main; sys.argv = ['cnlab-study', 'make', '--help']; main()\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'torch', 'pandas', 'scipy', 'pyarrow', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, "a heavy library was imported"
    assert "--show-map" in done.stdout


def test_at_most_25_options() -> None:
    assert sum(len(kind.__dataclass_fields__) for kind in (Make, Import, Analyse)) <= 25
