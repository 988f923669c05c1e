"""Cached rows, batches and what is drawn for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.contract.dataset import Triplets
from pipeline.contract.errors import CnlabError
from trainer.data.batches import AHEAD, Batches, Draw, look_ahead
from trainer.data.cache import CHUNK, RowCache, cache_folder, prune
from trainer.data.encode import latent_moments, subset_order, to_model_range
from trainer.data.items import Items, captions_cut, flip_safe, load_items
from trainer.data.maps import hints_of, map_store, stored_hint, to_hint
from trainer.nets.diffusion import min_snr_weights
from trainer.nets.models import Prior, load_prior
from trainer.parallel import Ranks


@pytest.fixture(scope="module")
def prior(model_folder: Path) -> Prior:
    return load_prior(str(model_folder), torch.device("cpu"))


class Maker:
    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        self.asked.append((int(numbers[0]), int(numbers[-1]) + 1))
        return numbers[:, None] + np.array([0.0, 0.5])


TOTAL = 3 * CHUNK + 7
ALL = np.arange(TOTAL)
WHOLE = [(0, CHUNK), (CHUNK, 2 * CHUNK), (2 * CHUNK, 3 * CHUNK), (3 * CHUNK, TOTAL)]


@pytest.fixture
def cache(tmp_path: Path) -> RowCache:
    return RowCache(tmp_path / "rows", (2,), TOTAL, "rows")


def test_rows_are_computed_once_and_only_those_asked_for(cache: RowCache) -> None:
    make = Maker()
    first = cache.rows(np.arange(10), make)
    assert np.array_equal(first[:10], np.arange(10)[:, None] + [0, 0.5])
    cache.rows(np.array([CHUNK + 5, 3, CHUNK + 1]), make)
    assert make.asked == [(0, 10), (CHUNK + 1, CHUNK + 6)]
    assert cache.ready == 12
    whole = cache.rows(ALL, make)
    assert make.asked[2:] == [(10, CHUNK), *[(CHUNK, 2 * CHUNK)], *WHOLE[2:]]
    assert np.array_equal(whole[:, 0], ALL.astype(np.float16))
    again = Maker()
    cache.rows(ALL, again)
    assert not again.asked


def test_rows_are_hashed_again_only_after_the_file_was_touched(
    cache: RowCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.data import cache as module

    cache.rows(ALL, Maker())
    hashed = []
    real = module._digest
    monkeypatch.setattr(module, "_digest", lambda rows: hashed.append(len(rows)) or real(rows))
    cache.rows(ALL, Maker())
    assert not hashed
    cache.path.with_name("rows.f16").touch()
    cache.rows(ALL, Maker())
    cache.rows(ALL, Maker())
    assert len(hashed) == len(WHOLE)


def test_caches_of_another_state_of_the_dataset_go(tmp_path: Path) -> None:
    old, new = (RowCache(tmp_path / f"latents-{name}", (2,), 9, "rows", name) for name in ("before", "now"))
    for cache in (old, new):
        cache.rows(np.arange(9), Maker())
    prune(tmp_path, "now")
    assert {p.name.split(".")[0] for p in tmp_path.iterdir()} == {"latents-now"}


def test_a_dataset_that_cannot_be_written_is_cached_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.data import cache as module

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert cache_folder(tmp_path, "abc") == tmp_path / ".cache"
    monkeypatch.setattr(module.os, "access", lambda *_: False)
    assert cache_folder(tmp_path, "abc") == tmp_path / "home" / "controlnet-lab" / "abc"


def test_at_home_other_states_of_the_same_dataset_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    homes = {name: tmp_path / "controlnet-lab" / name for name in ("before", "now", "another")}
    for name, place in (("another", tmp_path / "b"), ("before", tmp_path / "a"), ("now", tmp_path / "a")):
        RowCache(homes[name] / "latents-x", (2,), 9, "rows", name).rows(np.arange(9), Maker())
        prune(homes[name], name, place)
    assert {name for name, home in homes.items() if (home / "latents-x.f16").is_file()} == {"now", "another"}


def test_ranks_share_the_encoding(cache: RowCache) -> None:
    @dataclass(frozen=True)
    class Thread(Ranks):
        barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(2))

        def wait(self) -> None:
            self.barrier.wait(30)

    barrier, makers = threading.Barrier(2), [Maker(), Maker()]
    cache.rows(np.arange(CHUNK), Maker())  # an earlier run's
    with ThreadPoolExecutor(2) as pool:
        shares = [pool.submit(cache.rows, ALL, makers[i], Thread(i, 2, barrier)) for i in range(2)]
        tables = [share.result(60) for share in shares]
    assert [maker.asked for maker in makers] == [[WHOLE[1], WHOLE[3]], [WHOLE[2]]]
    for table in tables:
        assert np.array_equal(table, ALL[:, None].astype(np.float16) + np.array([0.0, 0.5], np.float16))
    again = Maker()
    cache.rows(ALL, again)
    assert again.asked == []
    assert cache.ready == TOTAL


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "list"])
def test_damage_is_found_and_only_that_is_made_again(
    cache: RowCache, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.rows(ALL, Maker())
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
    rows = cache.rows(ALL, make)
    assert make.asked == [(CHUNK, 2 * CHUNK)] if damage == "flip" else len(make.asked) == 4
    assert np.array_equal(rows[:, 0], ALL.astype(np.float16))
    assert "damaged" in capsys.readouterr().out


def test_a_kill_between_chunks_keeps_the_finished_ones(cache: RowCache) -> None:
    class Dies(Maker):
        def __call__(self, numbers: np.ndarray) -> np.ndarray:
            if numbers[0] == 2 * CHUNK:
                raise KeyboardInterrupt
            return super().__call__(numbers)

    with pytest.raises(KeyboardInterrupt):
        cache.rows(ALL, Dies())
    make = Maker()
    cache.rows(ALL, make)
    assert make.asked == [(2 * CHUNK, 3 * CHUNK), (3 * CHUNK, TOTAL)]


def test_values_that_float16_cannot_hold_are_refused(cache: RowCache) -> None:
    with np.errstate(over="ignore"), pytest.raises(CnlabError, match="float16 cannot"):
        cache.rows(np.arange(5), lambda numbers: np.full((len(numbers), 2), 1e6))


def test_moments_are_the_autoencoders_and_do_not_depend_on_the_count(dataset: Path, prior: Prior) -> None:
    from pipeline.contract.pictures import decode_image

    triplets = Triplets(dataset)
    few = np.array(latent_moments(triplets, "train", np.arange(3), prior, "count"))[:3]
    assert np.array_equal(few, latent_moments(triplets, "train", np.arange(8), prior, "count")[:3])
    assert np.array_equal(few[1:2], latent_moments(triplets, "train", np.array([1]), prior, "alone")[1:2])
    image = decode_image(triplets.rows("train", ["image"], 2, 3)["image"][0].as_py()["bytes"])
    with torch.inference_mode():
        posterior = prior.vae.encode(to_model_range(image[None])).latent_dist
    assert np.allclose(few[2], torch.cat([posterior.mean, posterior.std], 1)[0], atol=2e-3)
    mirrored = latent_moments(triplets, "train", np.arange(3), prior, "count", mirrored=True)[2]
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
    assert items.mirrored is not None
    allowed = items.mirrored.allowed
    assert allowed.any()  # some captions name no side
    assert not allowed.all()  # and some do
    for i in rows:
        if allowed[i]:
            assert torch.equal(turned["hint"][i], plain["hint"][i].flip(-1))
            assert torch.equal(turned["moments"][i], torch.from_numpy(items.mirrored.moments[i].copy()))
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
    cache.rows(np.arange(1), Maker())
    assert list(json.loads(cache.path.with_name("rows.json").read_text())["chunks"]) == ["0"]


def test_an_order_seed_has_its_own_nested_subsets(dataset: Path, prior: Prior, items: Items) -> None:
    triplets = Triplets(dataset)
    assert np.array_equal(subset_order(triplets, "train", 0, 5), np.arange(5))
    few, more, other = (subset_order(triplets, "train", s, n) for s, n in ((1, 3), (1, 6), (2, 6)))
    assert np.array_equal(more[:3], few)
    assert not np.array_equal(more, other)
    with pytest.raises(CnlabError, match="were asked for"):
        subset_order(triplets, "train", 1, 9)
    own = load_items(triplets, "train", 3, prior, "m", order_seed=1)
    taken, same = own.take([0, 1, 2]), items.take([int(i) for i in few])
    assert all(torch.equal(taken[name], same[name]) for name in taken)


def test_maps_are_one_file_and_travel_as_bytes(dataset: Path) -> None:
    from pipeline.contract.pictures import decode_image

    triplets = Triplets(dataset)
    rows = np.array([5, 0, 3])
    maps = map_store(triplets, "train", rows)
    table = triplets.table("train", ["conditioning_image"])["conditioning_image"].to_pylist()
    for i, row in enumerate(rows):
        picture = decode_image(table[row]["bytes"])
        assert torch.equal(maps[i], torch.from_numpy(picture[..., 0])[None])
        assert torch.equal(to_hint(maps[i][None])[0], torch.from_numpy(picture).permute(2, 0, 1).float() / 255)
    assert maps[0].dtype == torch.uint8
    assert isinstance(maps.data, np.memmap)


def test_masked_pixels_of_inpaint_are_minus_one() -> None:
    """As diffusers' `make_inpaint_condition`: image[mask > 0.5] = -1, the rest in [0, 1]."""
    picture = np.full((2, 2, 3), [10, 0, 255], np.uint8)
    picture[0, 0] = 0
    hint = hints_of(picture[None], signed=True)[0]
    assert (hint[:, 0, 0] == -1).all()
    assert torch.equal(hint[:, 1, 1], torch.tensor([10, 0, 255]) / 255)
    assert stored_hint(picture).dtype == torch.uint8
    assert hints_of(picture[None]).min() == 0


def test_what_waits_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from trainer.data import batches as module

    sd15 = 256 * (65_536 + 2 * 65_536 + 262_144 + 77 * 8 + 8)  # latents, two noises, a grey map, ids, timestep
    monkeypatch.setattr(module, "SHM", tmp_path / "none")
    for step_bytes in (sd15 // 64, sd15, 4 * sd15):
        ahead = look_ahead(step_bytes)
        assert ahead.bytes(step_bytes) <= AHEAD
        assert ahead.workers >= 1
        assert ahead.prefetch >= 1
    assert look_ahead(2 * AHEAD) == module.LookAhead(1, 1)
    monkeypatch.setattr(module, "SHM", tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 64 * 2**20})())
    assert look_ahead(2**20).bytes(2**20) <= 64 * 2**20
    with pytest.raises(CnlabError, match=r"shm-size"):
        look_ahead(sd15)


def test_ranks_share_the_cores_where_there_is_no_affinity_to_ask_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from trainer.data import batches as module

    monkeypatch.setattr(module, "SHM", tmp_path / "none")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS
    assert look_ahead(1).workers >= 1
    monkeypatch.setattr(module, "cpu_count", lambda: 8)
    assert [look_ahead(1, ranks).workers for ranks in (1, 2, 8)] == [7, 3, 1]


def test_captions_that_are_cut_are_counted(prior: Prior) -> None:
    length = prior.tokenizers[0].model_max_length
    fits, longer = " ".join(["red"] * (length - 2)), " ".join(["red"] * (length - 1))
    assert captions_cut(prior, [fits, longer, "a cube", longer + " cube"]) == 2


GROWTH = """
import sys
import numpy as np
from pathlib import Path
from types import SimpleNamespace
from pipeline.contract.pictures import encode_png
from trainer.data import maps

def anonymous():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))

png = encode_png(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
maps.rows_of = lambda triplets, split, column, numbers: [{"bytes": png} for _ in numbers]
triplets = SimpleNamespace(folder=Path(sys.argv[1]), fingerprint="f", condition="canny")
sizes = []
for count in (1_000, 20_000):
    store = maps.map_store(triplets, "train", np.arange(count))
    for i in range(0, count, 97):
        store[i]
    sizes.append(anonymous())
print(*sizes)
"""


@pytest.mark.slow
def test_private_memory_does_not_grow_with_the_number_of_maps(tmp_path: Path) -> None:
    """20,000 maps of 12 KB are 250 MB, none of them private to a rank."""
    ended = subprocess.run([sys.executable, "-c", GROWTH, str(tmp_path)], capture_output=True, text=True, check=True)
    few, many = map(int, ended.stdout.split())
    assert many < 1.1 * few


FULL = """
import resource, signal, sys
import numpy as np
from pathlib import Path
from pipeline.contract.errors import run_cli
from trainer.data.cache import RowCache
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
cache = RowCache(Path(sys.argv[1]) / "latents", (1000,), 20, "latents")
compute = lambda numbers: np.ones((len(numbers), 1000))
cache.rows(np.arange(2), compute)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
run_cli(lambda: cache.rows(np.arange(20), compute))
"""


def test_a_full_disk_while_encoding_is_an_error_and_no_crash(tmp_path: Path) -> None:
    """Written through a memory map, a full disk would end the process by SIGBUS, without a word."""
    ended = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True)
    assert ended.returncode == 2
    assert "error: File too large" in ended.stderr
    assert RowCache(tmp_path / "latents", (1000,), 20, "latents").ready == 2
