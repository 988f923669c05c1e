from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from study_world import RUN_A, World, answer, prefer

from pipeline.contract.errors import CnlabError
from user_study.analysis.analyse import analyse, analyse_study
from user_study.analysis.metric_votes import agreement
from user_study.analysis.report import report_page, report_text, verdict
from user_study.analysis.screening import exclusions
from user_study.config import Analyse, Import, Make, Plan, Simulate, Tidy
from user_study.design.trials import Trial
from user_study.study_folder import COLUMNS, Study


def small_study(mode: str = "paired", **rules: Any) -> Study:
    """A study of x and y with catch trials c1 (left is right) and c2 (a tie)."""
    trials = {
        "t-c1-catch": Trial("t-c1-catch", 1, "catch", "c1", ("a", "a*"), "left"),
        "t-c2-catch": Trial("t-c2-catch", 1, "catch", "c2", ("a", "a"), "tie"),
    }
    config = {"mode": mode, "catch_allowed": 1, "repeats_needed": 0, "margin": 0.1, **rules}
    header = {"study": "s", "config": config}
    return Study(Path("s"), header, {"a": "x", "b": "y"}, {}, {}, {"sheet-01": trials}, {})


def vote(
    rater: str, item: str, choice: str, shown: tuple[str, str] = ("x", "y"), kind: str = "pair"
) -> tuple[Any, ...]:
    winner = {"left": shown[0], "right": shown[1]}.get(choice, choice)
    trial = f"t-{item}-{kind}"
    return ("s", "sheet-01", rater, trial, item, item, 0, kind, json.dumps(shown), choice, winner, 1000, False)


def votes(*rows: tuple[Any, ...]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(COLUMNS))


def test_figures_by_hand() -> None:
    result = analyse(
        votes(
            vote("r1", "i1", "left"),
            vote("r1", "i2", "left", ("y", "x")),
            vote("r1", "i3", "tie"),
            vote("r2", "i1", "left"),
            vote("r2", "i2", "right", ("y", "x")),
            vote("r2", "i3", "unseen"),
            vote("r1", "i1", "right", ("y", "x"), "repeat"),
            vote("r2", "i1", "right", ("x", "y"), "repeat"),
        ),
        small_study(),
    )
    rates = {number["name"]: number for number in result["numbers"]}
    assert (rates["win_rate"]["value"], rates["win_rate"]["n"]) == (0.75, 4)
    assert rates["win_rate_ties_half"]["value"] == pytest.approx(3.5 / 5)
    assert (rates["tie_rate"]["value"], result["unseen"]) == (1 / 5, 1)
    assert result["left_share"]["value"] == 0.75
    assert [(r["rater"], r["value"]) for r in result["per_rater"]] == [("r1", 0.5), ("r2", 1.0)]
    assert (result["repeats"]["value"], result["repeats"]["n"]) == (0.5, 2)
    assert result["tests"]["if_votes_were_independent"]["sign_test_p"] == pytest.approx(2 * (1 + 4) / 16)
    assert "x preferred to y: 0.750" in report_text(result)
    assert "would have been found" in verdict(result)  # nothing is significant, so the detectable effect is said
    assert "more than 1 failed catch trials" in report_text(result)


def test_what_would_have_been_needed_is_said() -> None:
    """Eight raters on ten items, 55 %: not significant; nearly as many again would be needed, more for equality."""
    rng = np.random.default_rng(1)
    rows = [vote(f"r{r}", f"i{n}", "left" if rng.random() < 0.55 else "right") for r in range(8) for n in range(10)]
    result = analyse(votes(*rows), small_study())
    needed = result["tests"]["needed_for_difference"]
    assert needed["raters"] > 8 and needed["items"] > 10
    words = verdict(result)
    assert f"about {needed['raters']} raters on {needed['items']} items" in words and "equality within 10%" in words


def test_published_votes_again(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path("docs/examples/published_votes.py")["paper"]()
    printed = capsys.readouterr().out
    assert "chi square 255 on 11, effective n 104, 95 % interval 0.41 to 0.63" in printed
    assert "needs 115 raters" in printed and "240 rankings: t = 6.2" in printed


def test_a_ranking_says_what_each_pair_could_have_found() -> None:
    rng = np.random.default_rng(0)
    names = ("x", "y", "z")
    rows = []
    for r in range(6):
        for n in range(8):
            choice = ">".join(str(p) for p in sorted(range(3), key=lambda p: rng.random() - (p == 0)))
            rows.append(
                (*vote(f"r{r}", f"i{n}", "left")[:8], json.dumps(names), choice, names[int(choice[0])], 9, False)
            )
    study = small_study("ranking")
    study = replace(study, names={"a": "x", "b": "y", "c": "z"})
    result = analyse(votes(*rows), study)
    lines = {line.split(":")[0]: line for line in report_text(result).splitlines()}
    assert "detectable 0.5 +-" in lines["y preferred to z"] and "detectable" not in lines["x preferred to y"]
    assert "sd over raters" in lines["average rank of x (1 worst)"]
    assert {(entry["rater"], entry["subject"]) for entry in result["per_rater"]} >= {("r0", "x"), ("r5", "z")}
    assert report_page(result, votes(*rows)).count("data:image/png") == 1


@pytest.mark.parametrize(
    ("choices", "failed"),
    [(("left", "tie"), 0), (("right", "tie"), 1), (("tie", "tie"), 1), (("left", "left"), 1), (("unseen", "right"), 2)],
)
def test_catch_trials_and_exclusion(choices: tuple[str, str], failed: int) -> None:
    frame = votes(
        vote("r1", "i1", "left"),
        vote("r1", "c1", choices[0], ("x", "x (scrambled)"), "catch"),
        vote("r1", "c2", choices[1], ("x", "x"), "catch"),
        vote("r2", "i1", "right"),
    )
    strict, lenient = (analyse(frame, small_study(catch_allowed=allowed)) for allowed in (0, 2))
    assert strict["catch"]["failed"] == lenient["catch"]["failed"] == failed
    assert len(strict["excluded"]) == bool(failed) and not lenient["excluded"]
    assert strict["numbers"][0]["n"] == (1 if failed else 2)
    assert lenient["numbers"][0]["n"] == 2  # catch trials never count as votes


def twice(first: str, again: str, count: int = 7, turned: tuple[str, str] = ("y", "x")) -> list[tuple[Any, ...]]:
    rows = [vote("r1", f"i{n}", first) for n in range(count)]
    return rows + [vote("r1", f"i{n}", again, turned, "repeat") for n in range(count)]


def test_rule_on_repeats() -> None:
    study = small_study(repeats_needed=7, repeats_rule="contrary")
    side = analyse(votes(*twice("left", "left")), study)
    assert side["excluded"][0]["reason"] == "contradicted the first answer at all 7 repeats"
    assert "all of at least 7 repeats contrary" in report_text(side)
    once_steady = [*twice("left", "left"), *(vote("r1", "i9", c, s, k) for c, s, k in
                   (("left", ("x", "y"), "pair"), ("right", ("y", "x"), "repeat")))]  # fmt: skip
    for rows in (twice("left", "left", 6), twice("left", "tie"), twice("tie", "tie"), twice("tie", "left"), once_steady,
                 twice("left", "right"), twice("unseen", "unseen")):  # fmt: skip
        assert not analyse(votes(*rows), study)["excluded"]


def test_rule_on_repeats_of_rankings_and_of_single_pictures() -> None:
    study = small_study("ranking", repeats_needed=7, repeats_rule="contrary")
    ranks = votes(*twice("0>1", "0>1"))
    assert exclusions(ranks.assign(winner=ranks["shown"].map(lambda s: json.loads(s)[0])), study)
    assert not exclusions(votes(*twice("0>1", "1>0")), study)
    study = small_study("discrimination", repeats_needed=7, repeats_rule="contrary")
    assert exclusions(votes(*twice("first", "second", turned=("x", "y"))), study)
    assert not exclusions(votes(*twice("first", "first", turned=("x", "y"))), study)
    assert not exclusions(votes(*twice("first", "unseen", turned=("x", "y"))), study)


def test_a_study_from_before_keeps_its_rule_on_repeats() -> None:
    rows = twice("left", "left", 6)
    assert analyse(votes(*rows), small_study(repeats_needed=6))["excluded"][0]["reason"].startswith("none of 6")
    assert not analyse(votes(*rows), small_study(repeats_needed=7))["excluded"]
    assert analyse(votes(*twice("left", "tie", 6)), small_study(repeats_needed=6))["excluded"]


def test_nothing_left_is_said_and_not_a_number() -> None:
    result = analyse(votes(vote("r1", "c2", "left", ("x", "x"), "catch")), small_study(catch_allowed=0))
    assert result["numbers"][0]["value"] is None and "Too few votes" in verdict(result)
    json.dumps(result, allow_nan=False)


def test_metric_against_votes(tmp_path: Path) -> None:
    judged = votes(*(vote(f"r{r}", f"i{n}", "left") for r in range(3) for n in range(4)))
    study = small_study(fingerprints=["px", "py"])
    scores = [
        {"run": run, "eval_fingerprint": "e", "condition": "canny", "model": "m", "recipe": pictures, "step": 1,
         "pictures": pictures, "key": f"i{n}", "gen_seed": 0, "metric": metric, "metric_version": version,
         "value": value if n else 1.0}
        for run, value, pictures in (("x", 0.9, "px"), ("y", 0.2, "py"), ("x", -50.0, "by another recipe"))
        for n in range(4)
        for metric, version in (("canny_f1_2px", "1"), ("depth_rmse", "1"), ("depth_rmse", "2"),
                                ("canny_f1_2px_floor", "1"))
    ]  # fmt: skip
    (tmp_path / "scores.parquet").mkdir()
    pd.DataFrame(scores).to_parquet(tmp_path / "scores.parquet" / "a.parquet")
    entries = [(entry["subject"], entry["value"], entry["n"]) for entry in agreement(judged, tmp_path, study)]
    # i0 has equal scores
    assert entries == [("canny_f1_2px", 1.0, 9), ("depth_rmse (1)", 0.0, 9), ("depth_rmse (2)", 0.0, 9)]
    assert "a metric that prefers x whatever the picture would agree with the votes: 1.000" in report_text(
        analyse(judged, study, tmp_path)
    )


def command(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    code = "from user_study.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=240, cwd=cwd
    )


@pytest.mark.slow
def test_command_line_from_make_to_analyse(world: World) -> None:
    config = world.config
    make = ("make", "--subjects", *config.subjects, "--dataset", config.dataset, "--results", config.results)
    options = ("--out", config.out, "--items.per-sheet", "6", "--items.catch", "4")
    made = command(*make, *options, cwd=world.root)
    assert made.returncode == 0, made.stderr
    page = config.out / "sheets" / "sheet-01.html"
    for rater in ("r1", "r2"):
        document = answer(page, rater, prefer(config.out, lambda _: "a"))
        (world.root / f"{rater}.json").write_text(json.dumps(document))
    files = (world.root / "r1.json", world.root / "r2.json")
    imported = command("import", *files, "--study", config.out, "--results", config.results, cwd=world.root)
    assert imported.returncode == 0, imported.stderr
    assert "preferred to yakrun-1k: 1.000 [0.158, 1.000], n = 12" in imported.stdout
    first = (config.out / "analysis.json").read_bytes()
    assert command("analyse", "--study", config.out, cwd=world.root).returncode == 0
    assert (config.out / "analysis.json").read_bytes() == first
    again = command(*make, "--out", config.out, "--items.per-sheet", "7", "--items.catch", "4", cwd=world.root)
    assert again.returncode == 2 and again.stderr.startswith("error: ") and again.stderr.count("\n") == 1


def test_damaged_votes_are_named(world: World) -> None:
    study = world.make()
    with pytest.raises(CnlabError, match="import answers first"):
        analyse_study(study)
    (study / "votes.parquet").write_bytes(b"PAR1")
    with pytest.raises(CnlabError, match="cannot be read"):
        analyse_study(study)


@pytest.mark.proof
@pytest.mark.parametrize("what", ["make", "import", "analyse"])
def test_a_killed_command_is_finished_by_the_same_command(world: World, what: str) -> None:
    """SIGKILL at ten moments of each command; afterwards the files equal those of an undisturbed one."""
    config = world.config
    make = ["make", "--subjects", *config.subjects, "--dataset", config.dataset, "--results", config.results]
    make += ["--items.per-sheet", "10", "--items.catch", "4", "--items.repeats", "0.1", "--out", config.out]
    commands: dict[str, list[Any]] = {"make": make, "analyse": ["analyse", "--study", config.out]}
    assert command(*make, cwd=world.root).returncode == 0
    for n in (1, 2):
        page = config.out / "sheets" / f"sheet-{n:02d}.html"
        (world.root / f"{n}.json").write_text(json.dumps(answer(page, f"r{n}", prefer(config.out, lambda _: "a"))))
    files = [world.root / f"{n}.json" for n in (1, 2)]
    commands["import"] = ["import", *files, "--study", config.out, "--results", config.results]
    began = time.monotonic()
    assert command(*commands["import"], cwd=world.root).returncode == 0
    took = time.monotonic() - began
    whole = {p.relative_to(config.out): p.read_bytes() for p in config.out.rglob("*") if p.suffix in (".html", ".json")}
    code = "from user_study.cli import main; main()"
    for turn in range(10):
        if what == "make":
            (config.out / "study.json").unlink(missing_ok=True)
        elif what == "import":
            (config.out / "votes.parquet").unlink(missing_ok=True)
        arguments = [sys.executable, "-c", code, *map(str, commands[what])]
        process = subprocess.Popen(arguments, cwd=world.root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(took * (turn + 1) / 11)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert command(*commands[what], cwd=world.root).returncode == 0
        there = {
            p.relative_to(config.out): p.read_bytes() for p in config.out.rglob("*") if p.suffix in (".html", ".json")
        }
        assert there == whole
        assert len(pd.read_parquet(config.out / "votes.parquet")) == 30


def test_help_needs_no_heavy_library() -> None:
    code = (
        "import sys\ntry:\n    from user_study.cli import main; sys.argv = ['cnlab-study', 'make', '--help']; main()\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'torch', 'pandas', 'scipy', 'pyarrow', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, "a heavy library was imported"
    assert "--show.map" in done.stdout


def test_at_most_25_options_and_groups_of_at_most_12() -> None:
    for kind in (Make, Import, Analyse, Plan, Simulate, Tidy):
        assert len(kind.__dataclass_fields__) <= 25
    assert max(len(type(getattr(Make((RUN_A, "b"), Path(), Path()), g)).__dataclass_fields__)
               for g in ("items", "rules", "show")) <= 12  # fmt: skip
