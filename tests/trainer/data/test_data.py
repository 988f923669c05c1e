"""Cached rows, batches and what is drawn for them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.contract.dataset import Triplets
from pipeline.contract.errors import CnlabError
from trainer.data.cache import CHUNK, RowCache
from trainer.data.items import Batches, Draw, Items, flip_safe, latent_moments, load_items
from trainer.nets.diffusion import min_snr_weights
from trainer.nets.models import Prior, load_prior


@pytest.fixture(scope="module")
def prior(model_folder: Path) -> Prior:
    return load_prior(str(model_folder), torch.device("cpu"))


class Maker:
    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def __call__(self, first: int, end: int) -> np.ndarray:
        self.asked.append((first, end))
        return np.arange(first, end)[:, None] + np.array([0.0, 0.5])


@pytest.fixture
def cache(tmp_path: Path) -> RowCache:
    return RowCache(tmp_path / "rows", (2,), 3 * CHUNK + 7, "rows")


def test_rows_are_made_once_in_whole_chunks_and_extended(cache: RowCache) -> None:
    make = Maker()
    first = cache.rows(10, make)
    assert first.shape == (10, 2)
    assert np.array_equal(first, np.arange(10)[:, None] + [0, 0.5])
    cache.rows(CHUNK, make)
    assert make.asked == [(0, CHUNK)]
    whole = cache.rows(cache.total, make)
    assert make.asked == [(0, CHUNK), (CHUNK, 2 * CHUNK), (2 * CHUNK, 3 * CHUNK), (3 * CHUNK, cache.total)]
    assert np.array_equal(whole[:, 0], np.arange(cache.total, dtype=np.float16))
    again = Maker()
    cache.rows(cache.total, again)
    assert not again.asked


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "list"])
def test_damage_is_found_and_only_that_is_made_again(
    cache: RowCache, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.rows(cache.total, Maker())
    file, listed = cache.path.with_name("rows.f16"), cache.path.with_name("rows.json")
    if damage == "flip":
        data = bytearray(file.read_bytes())
        data[(CHUNK + 3) * 4] ^= 1
        file.write_bytes(data)
    elif damage == "truncate":
        file.write_bytes(file.read_bytes()[:-5])
    elif damage == "delete":
        file.unlink()
    else:
        listed.write_text(listed.read_text()[:20])
    make = Maker()
    rows = cache.rows(cache.total, make)
    assert make.asked == [(CHUNK, 2 * CHUNK)] if damage == "flip" else len(make.asked) == 4
    assert np.array_equal(rows[:, 0], np.arange(cache.total, dtype=np.float16))
    assert "damaged" in capsys.readouterr().out


def test_a_kill_between_chunks_keeps_the_finished_ones(cache: RowCache) -> None:
    class Dies(Maker):
        def __call__(self, first: int, end: int) -> np.ndarray:
            if first == 2 * CHUNK:
                raise KeyboardInterrupt
            return super().__call__(first, end)

    with pytest.raises(KeyboardInterrupt):
        cache.rows(cache.total, Dies())
    make = Maker()
    cache.rows(cache.total, make)
    assert make.asked == [(2 * CHUNK, 3 * CHUNK), (3 * CHUNK, cache.total)]


def test_values_that_float16_cannot_hold_are_refused(cache: RowCache) -> None:
    with np.errstate(over="ignore"), pytest.raises(CnlabError, match="float16 cannot"):
        cache.rows(5, lambda first, end: np.full((end - first, 2), 1e6))


def test_moments_are_the_autoencoders_and_do_not_depend_on_the_count(dataset: Path, prior: Prior) -> None:
    from pipeline.contract.pictures import decode_image
    from trainer.data.items import to_model_range

    triplets = Triplets(dataset)
    few = np.array(latent_moments(triplets, "train", 3, prior, "count"))
    assert np.array_equal(few, latent_moments(triplets, "train", 8, prior, "count")[:3])
    image = decode_image(triplets.rows("train", ["image"], 2, 3)["image"][0].as_py()["bytes"])
    with torch.inference_mode():
        posterior = prior.vae.encode(to_model_range(image[None])).latent_dist
    assert np.allclose(few[2], torch.cat([posterior.mean, posterior.std], 1)[0], atol=2e-3)
    mirrored = latent_moments(triplets, "train", 3, prior, "count", mirrored=True)[2]
    with torch.inference_mode():
        posterior = prior.vae.encode(to_model_range(image[None, :, ::-1])).latent_dist
    assert np.allclose(mirrored, torch.cat([posterior.mean, posterior.std], 1)[0], atol=2e-3)


@pytest.fixture(scope="module")
def items(dataset: Path, prior: Prior) -> Items:
    return load_items(Triplets(dataset), "train", None, prior, "m", flip=True)


DRAW = Draw(batch=8, seed=3, timesteps=1000, prompt_drop=0.5, flip=True)


@pytest.mark.parametrize(("accumulate", "world"), [(2, 1), (1, 2), (2, 2), (4, 2)])
def test_a_step_is_the_same_however_it_is_shared_out(items: Items, accumulate: int, world: int) -> None:
    whole = Batches(items, DRAW)[5][0]
    shares = [Batches(items, DRAW, accumulate, rank, world)[5] for rank in range(world)]
    joined = [shares[rank][micro] for micro in range(accumulate) for rank in range(world)]
    for name, value in whole.items():
        assert torch.equal(torch.cat([part[name] for part in joined]), value), name


def test_prompts_are_dropped_at_the_given_rate_and_drawn_anew(items: Items) -> None:
    many = replace(DRAW, batch=400)

    def dropped(step: int, rate: float) -> torch.Tensor:
        ids = Batches(items, replace(many, prompt_drop=rate))[step][0]["ids"]
        return (ids == items.empty).all(2).all(1)

    first, second = dropped(0, 0.5), dropped(1, 0.5)
    assert 160 < int(first.sum()) < 240
    assert not torch.equal(first, second)
    assert torch.equal(first, dropped(0, 0.5))
    assert not dropped(0, 0.0).any()
    assert dropped(0, 1.0).all()


def test_cached_text_is_what_the_encoder_says_with_dropping_redrawn(dataset: Path, prior: Prior, items: Items) -> None:
    cached = load_items(Triplets(dataset), "train", None, prior, "m", text_cache=True)
    for step in (0, 1):
        online = Batches(items, replace(DRAW, flip=False))[step][0]
        given = Batches(cached, replace(DRAW, flip=False))[step][0]
        assert torch.allclose(given["text"], prior.encode_text(online["ids"]), atol=2e-3)
    assert not torch.equal(Batches(cached, DRAW)[0][0]["text"], Batches(cached, DRAW)[1][0]["text"])


def test_flips_turn_latents_and_map_together_and_spare_captions_with_sides(items: Items) -> None:
    rows, all_flips = list(range(8)), torch.ones(8, dtype=torch.bool)
    plain, turned = items.take(rows), items.take(rows, flips=all_flips)
    assert items.flippable is not None
    assert items.mirrored is not None
    assert items.flippable.any()  # some captions name no side
    assert not items.flippable.all()  # and some do
    for i in rows:
        if items.flippable[i]:
            assert torch.equal(turned["hint"][i], plain["hint"][i].flip(-1))
            assert torch.equal(turned["moments"][i], torch.from_numpy(items.mirrored[i].astype(np.float32)))
        else:
            assert torch.equal(turned["hint"][i], plain["hint"][i])
            assert torch.equal(turned["moments"][i], plain["moments"][i])
    share = np.mean([Batches(items, DRAW)[s][0]["hint"].flatten(1).sum().item() > 0 for s in range(3)])
    assert share == 1


def test_which_conditions_may_be_mirrored() -> None:
    assert flip_safe("canny")
    assert flip_safe("depth")
    assert not flip_safe("normal")
    assert not flip_safe("openpose")


def test_min_snr_weights_are_the_papers(prior: Prior) -> None:
    t = torch.tensor([0, 300, 700, 999])
    alphas = prior.scheduler.alphas_cumprod[t]
    snr = alphas / (1 - alphas)
    found = min_snr_weights(prior.scheduler, t, 5.0)
    assert torch.allclose(found, torch.minimum(snr, torch.tensor(5.0)) / snr, rtol=1e-4)
    assert found[-1] == pytest.approx(1.0)
    assert found[0] < 0.05


def test_the_list_of_a_cache_is_plain_json(cache: RowCache) -> None:
    cache.rows(1, Maker())
    assert list(json.loads(cache.path.with_name("rows.json").read_text())["sha256"]) == ["0"]
