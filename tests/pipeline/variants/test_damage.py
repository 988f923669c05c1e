"""Damage is told by the pixels and texts of the new set against the old one's; its own records are then compared."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import DamageConfig
from pipeline.contract.dataset import Triplets
from pipeline.contract.errors import CnlabError
from pipeline.contract.identity import sha256_file
from pipeline.contract.pictures import decode_image
from pipeline.faults import FAULTS
from pipeline.screen.images import figures
from pipeline.variants.damage import damage

pytestmark = pytest.mark.slow

PICTURES = ("near_duplicate", "greyscale", "blurred", "jpeg")
MAPS = ("other_thresholds", "wrong_map", "shifted_map", "noisy_map", "erased_map")


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Train rows by key, read without our reader."""
    files = sorted(folder.glob("train-*.parquet"))
    return {row["key"]: row for row in pa.concat_tables(pq.read_table(f) for f in files).to_pylist()}


def differs(a: dict[str, Any], b: dict[str, Any], column: str) -> bool:
    if column == "text":
        return bool(a["text"] != b["text"])
    return not np.array_equal(decode_image(a[column]["bytes"]), decode_image(b[column]["bytes"]))


def pixels(row: dict[str, Any], column: str) -> np.ndarray:
    return decode_image(row[column]["bytes"])


def edges(row: dict[str, Any]) -> np.ndarray:
    return pixels(row, "canny")[..., 0] > 127


def check_kind(  # noqa: C901, PLR0912
    kind: str, new: dict[str, Any], old: dict[str, Any], every: dict[str, dict[str, Any]]
) -> bool:
    """Whether ``new`` is what the fault's name promises of ``old``."""
    image = pixels(new, "image")
    if kind in PICTURES and kind != "near_duplicate":
        params = json.loads(new["canny_params"])
        assert np.array_equal(edges(new), cv2.Canny(image, params["low"], params["high"]) > 127)
    match kind:
        case "near_duplicate":
            likest = min(every.values(), key=lambda r: np.abs(pixels(r, "image").astype(int) - image).mean())
            return likest["key"] != old["key"] and likest["rank"] < old["rank"] and likest["text"] == new["text"]
        case "greyscale":
            return bool((image == image[..., :1]).all())
        case "blurred":
            return figures(image)["sharpness"] < 0.6 * figures(pixels(old, "image"))["sharpness"]
        case "jpeg":
            flat = np.abs(np.diff(image.astype(int), axis=1)).mean((0, 2))
            return bool(flat[7::8].mean() > 1.15 * np.delete(flat, np.s_[7::8]).mean())
        case "other_thresholds":
            return edges(new).sum() != edges(old).sum()
        case "wrong_map":
            return any(np.array_equal(edges(new), edges(r)) for r in every.values() if r["key"] != old["key"])
        case "shifted_map":
            product = np.fft.ifft2(np.fft.fft2(edges(new)) * np.conj(np.fft.fft2(edges(old)))).real
            at = np.unravel_index(int(product.argmax()), product.shape)
            distance = np.hypot(*(min(i, 64 - i) for i in at))
            return bool(0.05 * 64 <= distance <= 0.16 * 64)
        case "noisy_map":
            return bool(0.03 < (edges(new) & ~edges(old)).mean() < 0.07 and (edges(new) & edges(old)).any())
        case "erased_map":
            gone = (pixels(old, "depth") > 0) & (pixels(new, "depth") == 0)
            kept = edges(new) == edges(old)
            return bool(gone[..., 0].mean() > 0.1 and (kept | gone[..., 0] | ~edges(new)).all())
        case "wrong_caption":
            return any(r["text"] == new["text"] for r in every.values())
        case "swapped_words":
            return sorted(new["text"].split()) == sorted(old["text"].split())
        case _:
            return bool(new["text"] == "")


@pytest.mark.parametrize("kind", FAULTS)
def test_each_kind_changes_its_share_of_rows_in_its_own_way_and_nothing_else(kind: str, renders: Path) -> None:
    header = damage(DamageConfig(renders, (f"{kind}=.5",)))
    new, old = rows_of(renders.parent / header["name"]), rows_of(renders)
    assert list(new) == list(old)
    columns = {"image": kind in PICTURES, "canny": kind in (*PICTURES, *MAPS), "text": kind not in (*PICTURES, *MAPS)}
    columns["depth"] = kind in ("near_duplicate", "wrong_map", "shifted_map", "noisy_map", "erased_map")
    columns["text"] |= kind == "near_duplicate"
    changed = {key for key in old if any(differs(new[key], old[key], column) for column in columns)}
    for column, may_change in columns.items():
        assert may_change or not any(differs(new[key], old[key], column) for key in old), column
    assert 0.35 <= len(changed) / len(old) <= 0.65
    assert sum(check_kind(kind, new[key], old[key], old) for key in changed) >= 0.95 * len(changed)
    recorded = {key for key, row in new.items() if kind in json.loads(row["faults"])}
    assert changed <= recorded
    assert len(recorded - changed) <= 2  # a grey render, a map on which other thresholds say the same
    assert header["damage"]["rows"] == {kind: len(recorded)}
    assert all(np.array_equal(pixels(r, "conditioning_image"), pixels(r, "canny")) for r in new.values())


def test_doses_are_nested_and_a_row_is_damaged_alike_at_each(renders: Path) -> None:
    fault = ("near_duplicate={0}", "shifted_map={0}", "wrong_caption={0}")
    old, before = rows_of(renders), None
    for dose in (0.1, 0.3, 0.6):
        config = DamageConfig(renders, tuple(f.format(dose) for f in fault), name=f"dose-{dose}")
        damage(config)
        new = rows_of(renders.parent / config.name)
        bad = {
            column: {key for key in old if differs(new[key], old[key], column)} for column in ("text", "image", "canny")
        }
        if before:
            for column, keys in before[1].items():
                assert keys < bad[column]
            pictures = before[1]["image"]
            assert not any(differs(new[key], before[0][key], "image") for key in pictures)
        before = new, bad


def test_seeds_damage_different_rows(renders: Path) -> None:
    bad = []
    for seed in (1, 2):
        damage(DamageConfig(renders, ("dropped_caption=.3",), name=f"seed-{seed}", seed=seed))
        bad.append({key for key, row in rows_of(renders.parent / f"seed-{seed}").items() if not row["text"]})
    assert bad[0] - bad[1] and bad[1] - bad[0]


def test_evaluation_shards_are_the_same_bytes(renders: Path) -> None:
    one = damage(DamageConfig(renders, ("jpeg=.2",), name="eval-one"))
    two = damage(DamageConfig(renders, ("wrong_map=.9",), name="eval-two"))
    for file in renders.glob("eval-*.parquet"):
        assert (renders.parent / "eval-one" / file.name).read_bytes() == file.read_bytes()
    assert one["eval_fingerprint"] == two["eval_fingerprint"] == Triplets(renders).header["eval_fingerprint"]
    assert one["fingerprint"] != two["fingerprint"]
    assert one["parent"]["fingerprint"] == Triplets(renders).fingerprint
    Triplets(renders.parent / "eval-one").verify()


def test_damaged_rows_can_be_left_out(renders: Path) -> None:
    damage(DamageConfig(renders, ("greyscale=.4",), name="with"))
    header = damage(DamageConfig(renders, ("greyscale=.4",), name="without", drop_damaged=True))
    old, bad, rest = (rows_of(renders.parent / name) for name in ("renders", "with", "without"))
    sound = [key for key in old if not differs(bad[key], old[key], "image")]
    assert list(rest) == sound
    assert not any(differs(rest[key], old[key], c) for key in rest for c in ("image", "canny", "depth", "text"))
    assert header["counts"]["train"] == len(sound) < len(old)


def test_damage_on_damage_keeps_both_records(renders: Path) -> None:
    damage(DamageConfig(renders, ("dropped_caption=.3",), name="first"))
    damage(DamageConfig(renders.parent / "first", ("erased_map=.5",), name="second"))
    rows = [json.loads(row["faults"]) for row in rows_of(renders.parent / "second").values()]
    assert any(row.keys() == {"dropped_caption", "erased_map"} for row in rows)


def test_datasets_reads_both_splits(renders: Path) -> None:
    from datasets import load_dataset

    damage(DamageConfig(renders, ("blurred=.2",), name="readable"))
    found = load_dataset(str(renders.parent / "readable"))
    assert found["train"].num_rows == 120
    assert found["eval"].num_rows == 8
    assert found["train"][0]["image"].size == (64, 64)


def test_a_set_of_an_older_layout_can_be_damaged(dataset: Path, tmp_path: Path) -> None:
    older = tmp_path / "tiny"
    older.symlink_to(dataset)
    damage(DamageConfig(older, ("wrong_map=1", "blurred=1"), name="tiny-damaged"))
    new, old = rows_of(dataset.parent / "tiny-damaged"), rows_of(dataset)
    assert all(differs(new[key], old[key], "canny") for key in old)


def test_killed_damage_goes_on_to_the_same_bytes(renders: Path) -> None:
    fault = tuple(f"{kind}=.3" for kind in FAULTS)
    damage(DamageConfig(renders, fault, name="whole"))
    for kill, shards in enumerate((1, 3)):
        name, folder = f"killed-{kill}", renders.parent / f"killed-{kill}"
        if (pid := os.fork()) == 0:
            damage(DamageConfig(renders, fault, name=name))
            os._exit(0)
        until = time.monotonic() + 60
        while len(list(folder.glob("train-*.parquet"))) < shards and time.monotonic() < until:
            time.sleep(0.002)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert not (folder / "dataset.json").exists()
        damage(DamageConfig(renders, fault, name=name))
        assert not list(folder.glob(".*.part"))
        for file in (renders.parent / "whole").glob("*.parquet"):
            assert sha256_file(folder / file.name) == sha256_file(file)


def test_the_same_command_repairs_and_others_are_refused(renders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = DamageConfig(renders, ("jpeg=.5",), name="mine")
    damage(config)
    shard = renders.parent / "mine" / "train-00001.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    damage(config)
    assert shard.read_bytes() == whole
    with pytest.raises(CnlabError, match="another"):
        damage(DamageConfig(renders, ("jpeg=.6",), name="mine"))
    with pytest.raises(CnlabError, match="made of itself"):
        damage(DamageConfig(renders, ("jpeg=.6",), name="renders"))


@pytest.mark.parametrize("fault", [("mould=.1",), ("jpeg",), ("jpeg=2",), ("jpeg=nan",), ("jpeg=.1", "jpeg=.2"), ()])
def test_bad_doses_are_one_line(fault: tuple[str, ...], renders: Path) -> None:
    with pytest.raises(CnlabError) as error:
        damage(DamageConfig(renders, fault))
    assert "\n" not in str(error.value)


def test_thresholds_need_a_condition_that_has_them(renders: Path) -> None:
    with pytest.raises(CnlabError, match="canny, softedge"):
        FAULTS["other_thresholds"].check(["depth"])
