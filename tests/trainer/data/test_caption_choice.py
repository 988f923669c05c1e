"""Captions chosen at training time from those that a dataset holds."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.contract.dataset import Triplets
from pipeline.contract.errors import CnlabError
from pipeline.contract.files import read_json, write_json
from pipeline.contract.identity import sha256_file
from trainer.config import DataOptions, TrainConfig
from trainer.data.batches import Batches, Draw
from trainer.data.items import Items, load_items
from trainer.nets.models import Prior, load_prior
from trainer.run import resolve


@pytest.fixture(scope="module")
def prior(model_folder: Path) -> Prior:
    return load_prior(str(model_folder), torch.device("cpu"))


def words(row: int) -> dict[str, str]:
    """Sources of a row: every one has `given`, all but the third `blip` too."""
    return {"given": f"a red cube {'on ' * row}", **({} if row == 2 else {"blip": f"a blue sphere {'on ' * row}"})}


@pytest.fixture(scope="module")
def told(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset with two sources of captions."""
    folder = tmp_path_factory.mktemp("told") / "data"
    shutil.copytree(dataset, folder, ignore=shutil.ignore_patterns(".cache"))
    header = read_json(folder / "dataset.json")
    for shard in header["shards"]:
        table = pq.read_table(folder / shard["file"])
        table = table.drop_columns([c for c in table.column_names if c == "captions"])
        column = pa.array([json.dumps(words(i)) for i in range(len(table))])
        pq.write_table(table.append_column("captions", column), folder / shard["file"])
        shard["sha256"] = sha256_file(folder / shard["file"])
    write_json(folder / "dataset.json", {**header, "fingerprint": "told"})
    return folder


def ids(prior: Prior, items: Items, numbers: list[int], captions: torch.Tensor | None = None) -> list[str]:
    taken = items.take(numbers, captions=captions)["ids"][:, 0]
    return [prior.tokenizers[0].decode(row, skip_special_tokens=True).strip() for row in taken]


def expected(prior: Prior, texts: list[str]) -> list[str]:
    rows = prior.tokenize(texts)[:, 0]
    return [prior.tokenizers[0].decode(row, skip_special_tokens=True).strip() for row in rows]


def test_captions_of_one_source_and_the_text_where_it_has_none(told: Path, prior: Prior) -> None:
    triplets = Triplets(told)
    items = load_items(triplets, "train", None, prior, "m", captions="blip", order_seed=3)
    plain = load_items(triplets, "train", None, prior, "m", order_seed=3)
    text = triplets.table("train", ["text"])["text"].to_pylist()
    wanted = [words(row).get("blip", text[row]) for row in items.rows.tolist()]
    every = list(range(len(items)))
    assert ids(prior, items, every) == expected(prior, wanted)
    assert ids(prior, plain, every) == expected(prior, [text[row] for row in items.rows.tolist()])


def test_random_captions_are_drawn_anew_at_every_visit_and_change_nothing_else(told: Path, prior: Prior) -> None:
    triplets = Triplets(told)
    items, plain = (load_items(triplets, "train", None, prior, "m", captions=how) for how in ("random", "first"))
    low, high = ids(prior, items, [0, 1, 2], torch.zeros(3)), ids(prior, items, [0, 1, 2], torch.full((3,), 0.999))
    assert low == expected(prior, [words(row)["given"] for row in range(3)])
    assert high == expected(prior, [words(0)["blip"], words(1)["blip"], words(2)["given"]])
    draw = Draw(batch=8, seed=0, timesteps=1000)
    seen: dict[int, set[str]] = {}
    for step in range(12):
        (own,), (other,) = Batches(items, draw)[step], Batches(plain, draw)[step]
        assert all(torch.equal(own[name], other[name]) for name in own if name != "ids")
        for row, moments in zip(own["ids"][:, 0], own["moments"], strict=True):
            number = next(i for i in range(8) if torch.equal(moments, torch.from_numpy(items.moments[i].copy())))
            seen.setdefault(number, set()).add(prior.tokenizers[0].decode(row))
    assert {number: len(texts) for number, texts in seen.items()} == {i: 1 if i == 2 else 2 for i in range(8)}
    parts = Batches(items, draw, accumulate=2)[0]
    assert torch.equal(torch.cat([part["ids"] for part in parts]), Batches(items, draw)[0][0]["ids"])


def test_what_cannot_be_had_says_so(told: Path, dataset: Path, prior: Prior) -> None:
    with pytest.raises(CnlabError, match=r"--captions git: no sample has a caption.*of: blip, given"):
        load_items(Triplets(told), "train", None, prior, "m", captions="git")
    with pytest.raises(CnlabError, match="holds no captions by source"):
        load_items(Triplets(dataset), "train", None, prior, "m", captions="random")
    config = TrainConfig(dataset=told, device="cpu", data=DataOptions(captions="random"))
    resolve(replace(config, data=DataOptions(captions="blip")))
    with pytest.raises(CnlabError, match=r"--captions git: no sample has a caption"):  # before a run, and dry ones
        resolve(replace(config, data=DataOptions(captions="git")))
    with pytest.raises(CnlabError, match="text_cache holds one caption"):
        replace(config, engine=("text_cache",)).resolved()


def test_the_choice_is_part_of_the_identity_and_the_old_one_is_not(told: Path) -> None:
    config = TrainConfig(dataset=told, device="cpu")
    plain, other = (replace(config, data=DataOptions(captions=how)).resolved() for how in ("first", "blip"))
    assert "captions" not in plain.identity("d", "m")
    assert other.identity("d", "m")["captions"] == "blip"
    assert plain.folder != other.folder
