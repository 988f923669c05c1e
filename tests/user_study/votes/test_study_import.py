from __future__ import annotations

import gzip
import html
import io
import json
import textwrap
import zipfile
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from study_world import RUN_A, RUN_B, World, answer, prefer, sealed, small_world, with_seal

from pipeline.contract.errors import CnlabError
from pipeline.contract.files import read_json, write_json
from user_study.config import Import, Simulate, Tidy
from user_study.study_folder import COLUMNS, read_study
from user_study.votes.answers import check
from user_study.votes.collect import import_answers, merge, votes_table
from user_study.votes.reading import read_documents
from user_study.votes.rows import migrate
from user_study.votes.simulate import simulate_study
from user_study.votes.tidy import import_table

TRIALS = 15  # of a sheet of the small world


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


def votes_of(study: Path) -> pd.DataFrame:
    return pd.read_parquet(study / "votes.parquet")


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


def variants(text: str) -> dict[str, tuple[str, bytes]]:
    """The same file as it comes: name and bytes."""
    document = json.loads(text)
    quoted = "On Monday r1 wrote:\n" + "\n".join("> " + line for line in text.splitlines()) + "\n-- \nregards"
    return {
        "plain": ("a.json", text.encode()),
        "renamed": ("answers-sheet-01-r1 (1).json", text.encode()),
        "bom and CRLF": ("a.json", b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()),
        "utf-16": ("a.json", text.encode("utf-16")),
        "utf-16 without mark": ("a.json", text.encode("utf-16-le")),
        "minified": ("a.json", json.dumps(document, sort_keys=True).encode()),
        "json.txt": ("a.json.txt", text.encode()),
        "upper case": ("A.JSON", text.encode()),
        "in subfolders": ("mailed/monday/a.json", text.encode()),
        "pasted": ("pasted.txt", ("Hello,\nhere it is:\n" + text + "\nBye {smile}").encode()),
        "quoted mail": ("mail.eml", quoted.encode()),
        "blank lines": ("a.json", ("\n\n" + text + "\n \n").encode()),
        "no-break spaces": ("a.json", text.replace("\n ", "\n\u00a0").encode()),
        "curly quotes": ("a.txt", text.replace('": ', "\u201d: ").replace(' "', " \u201c").encode()),
        "floats": ("a.json", text.replace('"response_ms": 900', '"response_ms": 900.0').encode()),
        "list": ("all.json", f"[{text}, {text}]".encode()),
        "wrapped": ("form.json", json.dumps({"responses": [{"id": 1, "file": document}]}).encode()),
        "escaped in JSON": ("chat.json", json.dumps({"messages": [{"text": text}]}).encode()),
        "escaped alone": ("a.json", json.dumps(text).encode()),
        "attached to a mail": ("mail.eml", mail(text, "base64")),
        "quoted-printable mail": ("mail.eml", mail(text, "quoted-printable")),
        "zip in a zip": ("all.zip", zipped("mailed.zip", zipped("a.json", text.encode()))),
        "attached zip": ("mail.eml", mail(zipped("a.json", text.encode()), "base64")),
        "end marks of Unix and Windows": ("a.json", (text + "\x1a\r\n").encode()),
        "utf-32": ("a.json", text.encode("utf-32")),
        "gzip": ("a.json.gz", gzip.compress(text.encode())),
        "numbers as text": ("a.json", text.replace('"response_ms": 900', '"response_ms": "900"').encode()),
        "lines broken anywhere": ("a.txt", "\r\n".join(textwrap.wrap(json.dumps(document), 70)).encode()),
        "as a web page": ("a.html", f"<pre>{html.escape(text)}</pre>".encode()),
        "in a Word document": ("a.docx", zipped("word/document.xml", f"<t>{html.escape(text)}</t>".encode())),
        "csv after a line for Excel": ("a.csv", ("sep=;\r\n" + csv_of(document)).encode("utf-8-sig")),
    }


def csv_of(document: dict[str, Any]) -> str:
    """The CSV that a sheet saves, with a spreadsheet's separators."""
    payload = document["payload"] or {"answers": []}
    own = ("study", "sheet", "token", "seed", "rater", "started", "finished")
    fields = ("trial", "choice", "response_ms", "hidden_ms", "views", "window", "seal")
    head = [str(payload.get(name)) for name in own]
    lines = [[*own, *fields]]
    lines += [
        [*head, *("x".join(map(str, a[f])) if f == "window" else str(a[f]) for f in fields)]
        for a in payload.get("answers", [])
    ]
    return "\r\n".join(";".join(line) for line in lines)


def mail(content: str | bytes, encoding: str) -> bytes:
    """A saved mail with an answer file attached."""
    message = EmailMessage()
    message["Subject"], message["From"] = "my answers", "r1@example.org"
    message["To"] = "study@example.org"
    message.set_content("Hello, see {below}.")
    data = content.encode() if isinstance(content, str) else content
    message.add_attachment(data, maintype="application", subtype="octet-stream", filename="a.json", cte=encoding)
    return message.as_bytes()


def zipped(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr(name, data)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A study that tests only read."""
    world = small_world(tmp_path_factory.mktemp("made"))
    world.make()
    return world


def taken(study: Path, *paths: Path) -> tuple[int, list[str]]:
    """Votes that an import would count, and what it would list."""
    whole = read_study(study)
    filled = [check(document, whole) for document in read_documents(paths)]
    sessions, remarks = merge([each for each in filled if each.answers])
    return len(votes_table(whole, sessions)), [p for each in filled for p in each.problems] + remarks


@pytest.mark.parametrize("kind", variants('{"payload": {}}'))
def test_a_good_file_in_whatever_clothes(made: World, tmp_path: Path, kind: str) -> None:
    text = json.dumps(answer(page(made.study), "r1", prefer(made.study, a_wins)), indent=1)
    name, data = variants(text)[kind]
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    for extra in ("._answers.json", ".DS_Store", "__MACOSX/x.json"):
        (tmp_path / extra).parent.mkdir(exist_ok=True)
        (tmp_path / extra).write_bytes(b"\0\5\x16\7")
    assert taken(made.study, tmp_path) == (TRIALS, [])


def test_zip_csv_and_json_of_one_session_count_once(world: World) -> None:
    study = world.make()
    document = answer(page(study), "r1", prefer(study, a_wins))
    archive = world.root / "all.zip"
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("sub/a.json", json.dumps(document))
        out.writestr("a.csv", csv_of(document))
        out.writestr("__MACOSX/._a.json", "x")
    load(world, archive)
    assert len(votes_of(study)) == TRIALS


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
    made: World, tmp_path: Path, edit: Edit, renew: bool, message: str, lost: int
) -> None:
    good, document = (answer(page(made.study), rater, prefer(made.study, a_wins)) for rater in ("ok", "r1"))
    edit(document["payload"])
    document = sealed(document["payload"]) if renew else document
    count, problems = taken(made.study, write(tmp_path, [good, document]))
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


def test_trials_of_another_sheet(made: World, tmp_path: Path) -> None:
    first, second = (answer(page(made.study, n), "r1", prefer(made.study, a_wins))["payload"] for n in (1, 2))
    first["answers"][3:] = second["answers"][3:]
    count, problems = taken(made.study, write(tmp_path, [sealed(first)]))
    assert count == 3 and "is of sheet-02, not of sheet-01" in str(problems)


def test_a_cut_file_gives_its_whole_answers(made: World, tmp_path: Path) -> None:
    text = json.dumps(answer(page(made.study), "r1", prefer(made.study, a_wins)), indent=1)
    (tmp_path / "cut.json").write_text(text[: text.rindex('"choice"')])
    assert taken(made.study, tmp_path)[0] == TRIALS - 1


def test_of_two_files_in_one_the_cut_one_is_not_lost(made: World, tmp_path: Path) -> None:
    one, two = (
        json.dumps(answer(page(made.study), rater, prefer(made.study, a_wins)), indent=1) for rater in ("r1", "r2")
    )
    cut = two[: two.rindex('"choice"')]
    path = tmp_path / "a.json"
    for text in (one + "\n" + cut, cut + "\n" + one, f"[{one}, {cut}"):
        path.write_text(text)
        assert taken(made.study, path)[0] == 2 * TRIALS - 1
    path.write_text(one + '{"format": "picture-answers", "version": 2, "payload": {"study": ')
    count, problems = taken(made.study, path)
    assert count == TRIALS and "was cut or rewritten" in str(problems)


def test_a_cut_simulated_file_stays_simulated(world: World) -> None:
    study = world.make()
    simulate_study(Simulate(study, raters=1, careless=0, bursts=0))
    document = read_json(next((study / "simulated" / "answers").glob("*.json")))
    answers = document["payload"].pop("answers")
    text = json.dumps({"format": document["format"], "payload": {**document["payload"], "answers": answers}})
    text = text.replace('"simulated": true', "")
    path = world.root / "cut.json"
    path.write_text(text[: text.rindex('"choice"')])
    load(world, path)
    assert not (study / "votes.parquet").exists()


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not an answer file"),
        ("\udcff\udcfe", "not an answer file"),
        ("[" * 100_000, "not an answer file"),
        ("[]", "not an answer file"),
        ('{"format": "x"}', "not an answer file"),
        ('{"format": "picture-answers", "version": 3, "payload": {}}', "answer format 3"),
        ('{"format": "picture-answers", "version": 2, "payload": {}}', "parts missing"),
        ("", "empty"),
        (" " * 9_000_000, "too large"),
        ("PK\x03\x04" + "x" * 100, "damaged zip file"),
        ('{"format": "picture-answers", "payload": ' + "[" * 400 + "]" * 400 + "}", "not an answer file"),
        ('{"format": "picture-answers", "payload": ' + "[" * 5000 + "]" * 5000 + "}", "was cut or rewritten"),
        ('{"format": "picture-answers", "payload": {"study": "', "was cut or rewritten"),
        ('{"format": "picture-answers", "version": 2, "payload": {"study": "\\ud800"}}', "parts missing"),
    ],
    ids=range(14),
)
def test_files_that_are_no_answers(made: World, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    count, problems = taken(made.study, path)
    assert count == 0 and message in str(problems)


def test_an_import_of_nothing_ends_in_one_line(world: World) -> None:
    study = world.make()
    (world.root / "x.json").write_text("{")
    with pytest.raises(CnlabError, match=r"none of 1 files could be used; .*x\.json is not an answer file"):
        load(world, world.root / "x.json")
    assert not (study / "votes.parquet").exists()


def test_paths_without_answers(world: World) -> None:
    world.make()
    (world.root / "empty").mkdir()
    for paths, message in (((world.root / "empty",), "no answer files"), ((world.root / "no",), "not exist")):
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


@pytest.mark.parametrize(
    ("mode", "lines", "expected"),
    [
        ("paired", ["r1,i1,x", "r1,i2,y", "r2,i1,x", "r2,i2,tie"], 2 / 3),
        ("ranking", ["r1,i1,x>y", "r1,i2,x > y", "r2,i1,y>x", "r2,i2,x>y"], 1.75),
        ("discrimination", ["r1,i1,1", "r1,i2,0", "r2,i1,1", "r2,i2,x"], 0.75),
    ],
)
def test_votes_made_elsewhere(tmp_path: Path, mode: Any, lines: list[str], expected: float) -> None:
    path = tmp_path / "votes.csv"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(["rater,item,choice", *lines]).encode())
    import_table(Tidy(path, tmp_path / "s", ("x", "y"), mode))
    assert read_json(tmp_path / "s" / "analysis.json")["numbers"][0]["value"] == pytest.approx(expected)
    assert "left chosen" not in (tmp_path / "s" / "report.html").read_text()  # a table has no sides
    import_table(Tidy(path, tmp_path / "s", ("x", "y"), mode))
    path.write_text("rater,item,choice\nr1,i1,z\n")
    with pytest.raises(CnlabError, match="line 2: 'z'"):
        import_table(Tidy(path, tmp_path / "t", ("x", "y"), mode))


@pytest.mark.parametrize(
    "bad", [{"subjects": ("x",)}, {"subjects": ("x", "y", "z")}, {"subjects": ("x", "tie")}, {"margin": 0.5}]
)
def test_options_of_votes_made_elsewhere(tmp_path: Path, bad: dict[str, Any]) -> None:
    with pytest.raises(CnlabError, match="--"):
        Tidy(**{"table": tmp_path / "votes.csv", "out": tmp_path / "s", "subjects": ("x", "y"), **bad})


def test_seal_of_an_answer_is_what_the_format_says() -> None:
    from user_study.votes.answers import answer_seal

    entry = {"trial": "t1", "choice": "left"}
    assert answer_seal("token", "r", entry) == with_seal("token", "r", entry)["seal"]
