from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from study_world import RUN_A, RUN_B, World, changed, payload_of, png, write_side

from pipeline.contract.dataset import Triplets
from pipeline.contract.errors import CnlabError
from pipeline.contract.files import read_json, write_json
from pipeline.contract.identity import sha256_file
from user_study.sheets.make import make_study
from user_study.sheets.page import TEMPLATES, clean_text, payload_text
from user_study.sheets.pictures import encode, scramble
from user_study.sheets.sides import load_side

URI = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=]+")


def files_of(study: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in study.rglob("*") if p.suffix in {".html", ".json"}}


def test_same_inputs_and_seed_give_the_same_bytes_elsewhere(world: World, tmp_path: Path) -> None:
    first = files_of(world.make())
    shutil.copytree(tmp_path / "results", tmp_path / "moved")
    again = files_of(world.make(results=tmp_path / "moved", out=tmp_path / "again"))
    assert first == again
    other = files_of(world.make(seed=1, out=tmp_path / "other"))
    assert all(other[name] != first[name] for name in first)


def test_header_vouches_for_sheets_and_key(world: World) -> None:
    study = world.make(sheets=4)
    header = read_json(study / "study.json")
    assert sorted(header["sheets"]) == ["sheet-01", "sheet-02", "sheet-03", "sheet-04"]
    for name, sheet in header["sheets"].items():
        assert sha256_file(study / "sheets" / f"{name}.html") == sheet["sha256"]
        assert sheet["trials"] == 10 + 1 + 4
    assert header["key_sha256"] == sha256_file(study / "key.json")
    assert header["items"] == 10 and header["config"]["subjects"] == [RUN_A, RUN_B]


def test_second_run_does_nothing_and_another_config_is_refused(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    study = world.make()
    before = {p: p.stat().st_mtime_ns for p in study.rglob("*.html")}
    world.make()
    assert "nothing to do" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in study.rglob("*.html")}
    with pytest.raises(CnlabError, match="another configuration"):
        world.make(per_sheet=8)


def test_a_build_that_was_stopped_is_made_again(world: World) -> None:
    study = world.make()
    whole = files_of(study)
    (study / "study.json").unlink()
    (study / "sheets" / "sheet-01.html").write_text("half")
    (study / "sheets" / "sheet-77.html").write_text("of another config")
    world.make()
    assert files_of(study) == whole


@pytest.mark.parametrize(
    ("a", "b"), [(RUN_A, RUN_B), (RUN_A, f"{RUN_A}/prior"), (f"{RUN_A}/shuffled", f"{RUN_A}/prior")]
)
def test_nothing_in_a_sheet_tells_what_is_compared(world: World, a: str, b: str) -> None:
    study = world.make(subjects=(a, b))
    for page in (study / "sheets").iterdir():
        html = page.read_text(encoding="utf-8")
        pictures = [base64.b64decode(uri.split(",")[1]) for uri in URI.findall(html)]
        text = URI.sub("", html).lower()
        manifest = read_json(world.config.results / "generations" / RUN_A / "control" / "manifest.json")
        words = [
            RUN_A,
            RUN_B,
            "zebra",
            "yak",
            "prior",
            "shuffled",
            "control",
            "secretkey",
            "generations",
            "tiny",
            "repeat",
        ]
        words += [str(world.root).lower(), "scrambled", "catch", "manifest", "d" * 64]
        words += [i["file"][:16] for i in manifest["images"]]
        body = text.split("<script>")[0]  # the script's own code speaks of event.repeat and catch (error)
        assert [w for w in words if w in body] == []
        assert [w for w in words if w in text and w not in {"repeat", "catch"}] == []
        assert len(pictures) == 15 * 3
        for data in pictures:
            with Image.open(io.BytesIO(data)) as picture:
                assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (16, 16))
                assert not picture.info
            assert not re.search(rb"tEXt|zTXt|iTXt|tIME|eXIf|iCCP|pHYs", data[:200])


def test_trials_carry_no_kind_or_item(world: World) -> None:
    payload, _ = payload_of(world.make() / "sheets" / "sheet-01.html")
    assert set(payload) == {"study", "sheet", "seed", "mode", "question", "labels", "text", "trials"}
    assert {frozenset(t) for t in payload["trials"]} == {
        frozenset({"id", "block", "shown", "map", "caption", "feedback"})
    }


def test_pictures_are_those_that_the_key_names(world: World) -> None:
    study = world.make()
    key = read_json(study / "key.json")
    dataset = Triplets(world.config.dataset)
    sides = {letter: load_side(world.config.results, run, dataset) for letter, run in (("a", RUN_A), ("b", RUN_B))}
    for name, sheet in key["sheets"].items():
        payload, _ = payload_of(study / "sheets" / f"{name}.html")
        for trial in payload["trials"]:
            entry = sheet["trials"][trial["id"]]
            sample, group = key["items"][entry["item"]], key["groups"][entry["item"]]
            for uri, side in zip(trial["shown"], entry["shown"], strict=True):
                pixels = sides[side[0]].read(sample, group)
                assert np.array_equal(pixels_of(uri), pixels) != side.endswith("*")
            number = int(sample.split("/")[1])
            assert np.array_equal(pixels_of(trial["map"]), np.asarray(Image.open(io.BytesIO(png(1000 + number)))))


def pixels_of(uri: str) -> Any:
    with Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as shown:
        return np.asarray(shown)


def test_a_file_reveals_nothing_of_the_side(world: World) -> None:
    """What is there beside pixels: lengths, chunks, place in the file, ids. A nearest-mean classifier sees chance."""
    write_side(world.config.results, "smooth", "control", 14, flat=True)
    study = world.make(subjects=(RUN_A, "smooth"), per_sheet=14, sheets=8, catch=0, repeats=0)
    key = read_json(study / "key.json")["sheets"]
    rows, labels = [], []
    for name in key:
        payload, _ = payload_of(study / "sheets" / f"{name}.html")
        for place, trial in enumerate(payload["trials"]):
            for n, (uri, side) in enumerate(
                zip(trial["shown"], key[name]["trials"][trial["id"]]["shown"], strict=True)
            ):
                png_bytes = base64.b64decode(uri.split(",")[1])
                rows.append([len(uri), len(png_bytes), place, n, int(trial["id"][1:5], 16), trial["block"]])
                labels.append(side)
    features, which = np.array(rows, dtype=float), np.array(labels)
    assert len(set(features[:, 0])) == len(set(features[:, 1])) == 1  # smooth pictures compress far better
    features = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-9)
    right = 0
    for n in range(len(which)):
        rest = np.arange(len(which)) != n
        means = {side: features[rest & (which == side)].mean(axis=0) for side in "ab"}
        right += min(means, key=lambda side: float(((features[n] - means[side]) ** 2).sum())) == which[n]
    assert right / len(which) < 0.5 + 2.6 * 0.5 / np.sqrt(len(which))


@pytest.mark.parametrize(
    ("mode", "subjects"),
    [("ranking", (RUN_A, RUN_B, f"{RUN_A}/prior")), ("discrimination", ("real", RUN_B))],
)
def test_other_modes(world: World, mode: str, subjects: tuple[str, ...]) -> None:
    study = world.make(mode=mode, subjects=subjects, labels=("a photo", "made") if len(subjects) == 2 else ())
    key = read_json(study / "key.json")
    assert list(key["subjects"].values()) == list(subjects)
    payload, _ = payload_of(study / "sheets" / "sheet-01.html")
    shown = {len(trial["shown"]) for trial in payload["trials"]}
    assert shown == ({1} if mode == "discrimination" else {3})
    told = [trial for trial in payload["trials"] if trial["feedback"] is not None]
    assert len(told) == (20 if mode == "discrimination" else 0)
    assert (payload["trials"][0]["map"] is None) == (mode == "discrimination")


def test_anybodys_folder_is_a_side(world: World) -> None:
    folder = world.root / "theirs"
    folder.mkdir()
    for n in range(12):
        (folder / f"{n:04d}.png").write_bytes(png(9000 + n))
    key = read_json(world.make(subjects=(RUN_A, f"folder:{folder}")) / "key.json")
    assert key["subjects"]["b"] == "folder:theirs"
    with pytest.raises(CnlabError, match="is not a folder"):
        world.make(subjects=(RUN_A, "folder:nowhere"), out=world.root / "studies" / "n")


def test_a_translation_is_one_file(world: World) -> None:
    english = json.loads((TEMPLATES / "strings.en.json").read_text())
    table = world.root / "de.json"
    table.write_text(json.dumps({**english, "lang": "de", "tie": "Gleich"}))
    html = (world.make(strings=table) / "sheets" / "sheet-01.html").read_text(encoding="utf-8")
    assert '<html lang="de">' in html and "Gleich" in html
    table.write_text(json.dumps({**english, "count": "no places"}))
    with pytest.raises(CnlabError, match="count"):
        world.make(strings=table, out=world.root / "studies" / "t")


def test_no_network_and_only_the_hashed_script_and_style(world: World) -> None:
    html = (world.make() / "sheets" / "sheet-01.html").read_text(encoding="utf-8")
    policy = html.split('http-equiv="Content-Security-Policy" content="')[1].split('"')[0]
    assert policy.startswith("default-src 'none'; img-src data: blob:;")
    for tag in ("script", "style"):
        inside = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        assert len(inside) == 1
        mark = base64.b64encode(hashlib.sha256(inside[0].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{mark}'" in policy
    assert len(re.findall(r"<script", html)) == 2  # the data and the code
    assert not re.search(r"https?:|//[a-z]|@import|url\(|\son[a-z]+=|style=", html.split('id="data">')[0])
    for words in ("fetch(", "XMLHttpRequest", "innerHTML", "eval(", "import("):
        assert words not in html


def test_hostile_captions_are_inert(world: World) -> None:
    study = world.make(per_sheet=12, catch=0)
    payload, text = payload_of(study / "sheets" / "sheet-01.html")
    assert not re.search(r"[<>&\u2028\u2029]|[^\x20-\x7e]", text)
    captions = {t["caption"] for t in payload["trials"]}
    assert "</script><script>alert(1)</script>" in captions  # as text, whole
    assert "nul\ufffdinside" in captions and "\ufffdright to left\ufffd" in captions
    assert max(map(len, captions)) == 1001
    assert not {c for caption in captions for c in caption} & set("\0\u202e\u202c\u2028")


def test_clean_text() -> None:
    assert clean_text("a\n b\tc") == "a b c"
    assert clean_text("\ud800 \u200e \u2066x \x1b[31m") == "\ufffd \ufffd \ufffdx \ufffd[31m"
    assert (
        clean_text("z\u00fcrich \u05e9\u05dc\u05d5\u05dd \U0001f3d4")
        == "z\u00fcrich \u05e9\u05dc\u05d5\u05dd \U0001f3d4"
    )
    assert json.loads(payload_text({"x": "<\u2028\ud800>&"})) == {"x": "<\u2028\ud800>&"}


def test_map_and_caption_can_be_hidden_and_chosen(world: World, tmp_path: Path) -> None:
    bare, _ = payload_of(world.make(map=False, caption=False) / "sheets" / "sheet-01.html")
    assert all(t["map"] is None and t["caption"] is None for t in bare["trials"])
    soft, _ = payload_of(world.make(condition="softedge", out=tmp_path / "soft") / "sheets" / "sheet-01.html")
    hard, _ = payload_of(world.make(out=tmp_path / "hard") / "sheets" / "sheet-01.html")
    assert not {t["map"] for t in soft["trials"]} & {t["map"] for t in hard["trials"]}


def test_pictures_of_two_sizes_become_one(world: World) -> None:
    write_side(world.config.results, "large", "control", 14, size=32)
    payload, _ = payload_of(world.make(subjects=(RUN_A, "large")) / "sheets" / "sheet-01.html")
    for trial in payload["trials"]:
        for uri in (*trial["shown"], trial["map"]):
            assert pixels_of(uri).shape == (16, 16, 3)


def test_scramble_moves_every_tile_and_keeps_the_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (18, 16, 3), dtype=np.uint8)
    mixed = scramble(pixels, "salt")
    assert np.array_equal(np.sort(mixed.reshape(-1, 3), axis=0), np.sort(pixels.reshape(-1, 3), axis=0))
    for row in range(4):
        for column in range(4):
            at = (slice(row * 4, row * 4 + 4), slice(column * 4, column * 4 + 4))
            assert not np.array_equal(mixed[at], pixels[at])
    assert np.array_equal(mixed[16:], pixels[16:])


@pytest.mark.parametrize("flat", [True, False])
def test_to_decode_a_picture_is_the_same_work_whatever_it_shows(flat: bool) -> None:
    """Nothing to inflate and no filter to undo, so the time it takes tells nothing."""
    with Image.open(io.BytesIO(png(4, size=64, flat=flat))) as picture:
        pixels = np.asarray(picture)
    data = encode(pixels, (64, 64), stored=True)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)
    stream = data[data.index(b"IDAT") + 4 : data.index(b"IEND") - 8]
    rows = zlib.decompress(stream)
    assert len(stream) == len(rows) + 11  # one stored block, its header, the stream's own head and checksum
    assert set(rows[:: 1 + 64 * 3]) == {0}  # the filter of every row
    assert len(data) == len(encode(255 - pixels, (64, 64), stored=True))


def test_encode_takes_out_everything_but_pixels() -> None:
    with Image.open(io.BytesIO(png(3, parameters="run name"))) as picture:
        data = encode(np.asarray(picture), (16, 16))
        assert b"run name" not in data
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), np.asarray(picture))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"subjects": (RUN_B, RUN_B)}, "two different ones"),
    ({"subjects": (RUN_B, f"{RUN_B}/control")}, "two of them are the same"),
    ({"subjects": (RUN_A, "../secret")}, "is no subject"),
    ({"subjects": (RUN_A, f"{RUN_A}/depth")}, "is no subject"),
    ({"subjects": (RUN_A, "nobody")}, "no complete pictures of nobody"),
    ({"subjects": (RUN_A, RUN_B, f"{RUN_A}/prior")}, "--mode ranking"),
    ({"per_sheet": 15}, "share pictures of 14 samples"),
    ({"condition": "depth"}, "depth"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_refusals(world: World, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CnlabError, match=message):
        world.make(**changes)
    assert not (world.study / "study.json").exists()


@pytest.mark.parametrize(
    "bad",
    [
        {"per_sheet": 1},
        {"sheets": 3},
        {"pool": 5},
        {"repeats": 0.9},
        {"catch": 3},
        {"question": " "},
        {"margin": 0.5},
        {"labels": ("x",)},
    ],
)
def test_options_out_of_range(world: World, bad: dict[str, Any]) -> None:
    with pytest.raises(CnlabError, match="--"):
        changed(world.config, **bad)


def test_damaged_inputs_are_named(world: World) -> None:
    folder = world.config.results / "generations" / RUN_A / "control"
    manifest = json.loads((folder / "manifest.json").read_text())
    for file in folder.glob("*.png"):
        file.write_bytes(b"GIF89a")
    with pytest.raises(CnlabError, match="no readable PNG"):
        world.make()
    for file in folder.glob("*.png"):
        file.unlink()
    with pytest.raises(CnlabError, match="does not exist"):
        world.make()
    manifest["images"][0]["file"] = "../../x.png"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CnlabError, match="no plain file name"):
        world.make()
    (folder / "manifest.json").write_text('{"fingerprint": "x"}')
    with pytest.raises(CnlabError, match="lacks 'images'"):
        world.make()


def test_pictures_of_another_dataset_are_refused(world: World) -> None:
    write_side(world.config.results, "wide", "control", 20)
    write_side(world.config.results, "wide", "prior", 20)
    with pytest.raises(CnlabError, match="not in the eval split"):
        world.make(subjects=("wide", "wide/prior"), per_sheet=20)
    path = world.config.results / "generations" / RUN_B / "control" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "dataset": "other"}))
    with pytest.raises(CnlabError, match="generated from dataset 'other'"):
        world.make()


def test_pictures_of_an_older_dataset_are_refused(world: World) -> None:
    path = world.config.results / "generations" / RUN_B / "control" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "config": {"dataset": "d" * 64}}))
    world.make()
    path.write_text(json.dumps({**manifest, "config": {"dataset": "e" * 64}}))
    with pytest.raises(CnlabError, match="before it changed"):
        world.make(out=world.root / "studies" / "t")


def test_the_map_is_that_of_the_runs_condition(world: World) -> None:
    runs = world.root / "runs"
    write_json(runs / RUN_A / "summary.json", {"condition": "softedge"})
    assert read_json(world.make(runs=runs) / "study.json")["config"]["condition"] == "softedge"
    write_json(runs / RUN_B / "summary.json", {"condition": "canny"})
    with pytest.raises(CnlabError, match=r"canny and softedge; say with --show\.condition"):
        world.make(runs=runs, out=world.root / "studies" / "t")
    world.make(runs=runs, out=world.root / "studies" / "t", condition="canny")


def test_dataset_has_to_be_complete(world: World) -> None:
    (world.config.dataset / "dataset.json").unlink()
    with pytest.raises(CnlabError, match="not a finished dataset"):
        make_study(world.config)
