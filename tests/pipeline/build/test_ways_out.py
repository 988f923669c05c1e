"""Builds that end badly: what they leave, what they say, and that what they advise works."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from photos import clean_photos
from PIL import Image

from pipeline.build.run import build
from pipeline.config import DatasetConfig
from pipeline.contract.dataset import CLAIM, HEADER
from pipeline.contract.errors import CnlabError
from pipeline.contract.sizes import parse_size
from pipeline.screen.checks import advice
from pipeline.screen.limits import DEFAULT, PRESETS, resolve_limits


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, photo in enumerate(clean_photos(12, 80)):
        Image.fromarray(photo).save(folder / f"a picture of shapes {i}x.png")
    return folder


def config(photos: Path, **more: object) -> DatasetConfig:
    return DatasetConfig(
        **{
            "source": f"folder:{photos}", "size": "50", "image_size": 64, "workers": 0, "out": photos.parent / "data",
            "name": "set", "screen": "off", "duplicates": "off", "eval_share": 0.3, **more,
        }
    )  # type: ignore[arg-type] # fmt: skip


def test_a_build_that_ends_with_nothing_leaves_nothing_and_its_advice_works(photos: Path) -> None:
    with pytest.raises(CnlabError, match=r"12 train and 0 eval.*add images, or raise --eval-share"):
        build(config(photos, eval_share=0.001))
    assert not config(photos).folder.exists()
    assert build(config(photos, eval_share=0.4))["counts"]["eval"] > 0


def test_what_others_put_into_the_folder_stays(photos: Path) -> None:
    folder = config(photos).folder
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(CnlabError, match="0 eval"):
        build(config(photos, eval_share=0.001))
    assert [p.name for p in folder.iterdir()] == ["notes.txt"]


def test_most_of_a_set_rejected_for_one_reason_names_the_way_to_take_it(photos: Path) -> None:
    strict = config(photos, screen="default", threshold={"min_side": 500})
    with pytest.raises(CnlabError, match=r"12 of 12 .* too_small \(min_side 500\).*--threshold min_side 1 takes them"):
        build(strict)
    assert not strict.folder.exists()
    taken = build(config(photos, screen="default", threshold={"min_side": 1, "max_blur": 9}))
    assert sum(taken["counts"].values()) == 12


@pytest.mark.slow
def test_missing_weights_leave_nothing(photos: Path) -> None:
    with pytest.raises(CnlabError, match="--weights hed"):
        build(config(photos, condition=("hed",), weights={"hed": str(photos / "none")}))
    assert not config(photos).folder.exists()


def test_a_claim_without_shards_protects_nothing(photos: Path) -> None:
    folder = config(photos).folder
    folder.mkdir(parents=True)
    (folder / CLAIM).write_text(json.dumps({"fingerprint": "of another", "config": {}}))
    assert build(config(photos))["counts"]["train"] > 0


def test_refusals_name_the_fields_that_differ_and_another_name_works(photos: Path) -> None:
    build(config(photos))
    with pytest.raises(CnlabError, match=r"differs in eval_share\).*--name"):
        build(config(photos, eval_share=0.5))
    first = sorted(photos.iterdir())[0]
    first.write_bytes(first.read_bytes() + b"\0")
    with pytest.raises(CnlabError, match=r"differs in source_fingerprint \(files of the source were added, removed or"):
        build(config(photos))
    assert build(config(photos, name="other"))["counts"]["train"] > 0
    header = config(photos).folder / HEADER
    record = json.loads(header.read_text())
    record["config"]["limits"]["of_the_past"] = 3
    header.write_text(json.dumps(record))
    with pytest.raises(CnlabError, match="of_the_past"):
        build(config(photos))


@pytest.mark.parametrize("size", ["nan", "inf", "-1", "0", "1e400", "-inf", "k", "1.5"])
def test_numbers_that_are_none_are_one_line(size: str) -> None:
    with pytest.raises(CnlabError, match="is not a positive number") as caught:
        parse_size(size)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"eval_share": float("nan")}, {"eval_share": -1.0}, {"safe_rate": float("inf")}, {"eval_size": -1},
        {"threshold": {"max_blur": float("nan")}}, {"image_size": -1}, {"block": -1}, {"workers": -1}, {"seed": -1},
    ],
)  # fmt: skip
def test_options_that_are_no_numbers_are_one_line(options: dict[str, object]) -> None:
    with pytest.raises(CnlabError) as caught:
        DatasetConfig(**options).resolve()  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_advice_names_a_preset_only_where_it_helps_and_nothing_for_a_mixed_set() -> None:
    limits = PRESETS["default"]
    assert "as --screen render does" in advice({"greyscale": 30}, 10, limits)
    assert "--screen" not in advice({"near_duplicate": 30}, 10, limits)
    assert "no threshold decides" in advice({"decode": 30, "blur": 2}, 3, limits)
    assert advice({"greyscale": 10, "blur": 10}, 5, limits) == ""
    assert advice({}, 0, limits) == ""
    for reason in ("too_small", "jpeg_damage", "near_duplicate", "caption_empty", "map_misaligned"):
        words = advice({reason: 9}, 1, limits).partition("--threshold ")[2].partition(" takes")[0].split()
        named = dict(zip(words[::2], map(float, words[1::2]), strict=True))
        assert resolve_limits("default", named) == {**DEFAULT, **named}


def test_a_blockiness_of_the_old_scale_is_refused() -> None:
    with pytest.raises(CnlabError, match="share below 1"):
        resolve_limits("default", {"max_blockiness": 1.6})


def test_an_unreachable_hub_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub import constants

    from pipeline.contract import hub
    from pipeline.sources import open_source

    class Silent:
        def head(self, *_: object, **__: object) -> None:
            time.sleep(30)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_session", Silent)
    monkeypatch.setattr(hub, "PATIENCE", 0.1)
    with pytest.raises(CnlabError, match=r"'nobody/nothing' is no local path and .* cannot be reached \(no answer"):
        open_source("hub:nobody/nothing", 0, 64)
    with pytest.raises(CnlabError, match="--weights hed"):
        hub.require_hub("nobody/nothing", "model", "give a local folder with --weights hed PATH")
    hub.require_hub("/not/a/name", "model")
