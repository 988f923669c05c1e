"""The whole recipe of the tabletop models, part by part, and how long the rest of it takes."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from pipeline.contract.files import atomic, read_json, remove_parts, write_json
from pipeline.tabletop import render, sample_scene
from trainer.data.cache import RowCache
from trainer.nets.base import model_identity
from trainer.parallel import Ranks
from trainer.prior import clip, decoder, judge, unet, vae
from trainer.prior.assemble import save_clip, save_sd
from trainer.prior.fit import FitConfig, Task, fit, seconds_per_step, steps_left
from trainer.prior.models import IMAGE_SIZE, LATENT_CHANNELS, TEXT_WIDTH, TOKENS, build_tokenizer, build_vae
from trainer.prior.renders import JUDGE_SEED, TRAIN_SEED, Renders, renders

if TYPE_CHECKING:
    from trainer.prior.__main__ import PriorConfig

SCALING_SAMPLES = 2048  # renders whose latents set the scaling factor
FORECAST_SAMPLES = 256  # renders that a forecast times a step with


def train(config: PriorConfig, ranks: Ranks) -> None:
    """Everything ``config.part`` asks for; every process calls it, the first writes."""
    if ranks.first:
        remove_parts(config.work)
    ranks.wait()
    if ranks.first:
        print("\n".join(forecast(config, ranks)), flush=True)
    if config.part == "judge":
        _judge(config, ranks)
        return
    with ranks.in_turn():
        data = renders(config.work, TRAIN_SEED, config.count)
    clip_folder, vae_folder = config.weights / "tabletop-clip", config.weights / "tabletop-sd" / "vae"
    if config.part == "all":
        clip_folder, vae_folder = config.work / "clip-final", config.work / "vae-final"
        if ranks.first:
            _clip(data, config.work, clip_folder)
        _judge(config, ranks)
        _vae(data.images, config.work, vae_folder, ranks)
    _unet(config, data, clip_folder, vae_folder, ranks)


def _judge(config: PriorConfig, ranks: Ranks) -> None:
    """By the last process, while the first trains the CLIP: their losses compare a whole batch and are not split."""
    if ranks.rank < ranks.world - 1:
        return
    folder = config.work / "judge-final"
    if not folder.exists():
        data = renders(config.work, JUDGE_SEED, config.judge_count)
        words = build_tokenizer(data.captions, config.work / "judge-tokenizer")
        model, task = judge.judge_task(data, words)
        fit(task, config.work / "judge")
        with atomic(folder) as finished:
            save_clip(model, words, finished)
    shutil.copytree(folder, config.weights / "tabletop-judge", dirs_exist_ok=True)
    _record(config, "judge", f"{config.judge_count} renders; {_schedule(judge.CONFIG)}.")


def _clip(data: Renders, work: Path, folder: Path) -> None:
    if not folder.exists():
        words = build_tokenizer(data.captions, work / "tokenizer")
        model, task = clip.clip_task(data, words)
        fit(task, work / "clip")
        with atomic(folder) as finished:
            save_clip(model, words, finished)


def _vae(images: NDArray[np.uint8], work: Path, folder: Path, ranks: Ranks) -> None:
    if folder.exists():
        return
    model, task = vae.vae_task(images, ranks)
    fit(task, work / "vae", ranks)
    if ranks.first:
        vae.set_scaling_factor(model, images[:SCALING_SAMPLES])
        _save(model, folder)
    ranks.wait()


def _unet(config: PriorConfig, data: Renders, clip_folder: Path, vae_folder: Path, ranks: Ranks) -> None:
    ranks.wait()
    encoder = CLIPModel.from_pretrained(clip_folder, dtype=torch.float32).eval()
    autoencoder = AutoencoderKL.from_pretrained(vae_folder, torch_dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(clip_folder)
    ids = clip.token_ids(tokenizer, data.captions)
    every = np.arange(config.count)
    moments = RowCache(
        config.work / f"moments-{model_identity(str(vae_folder))[:12]}",
        (2 * autoencoder.config.latent_channels, IMAGE_SIZE // 8, IMAGE_SIZE // 8),
        config.count,
        "latents",
    ).rows(every, lambda rows: vae.encode_moments(autoencoder, data.images[rows]), ranks)
    states = RowCache(
        config.work / f"states-{model_identity(str(clip_folder))[:12]}", (TOKENS, TEXT_WIDTH), config.count, "texts"
    ).rows(every, lambda rows: unet.encode_texts(encoder.text_model, ids[torch.from_numpy(rows)]), ranks)
    empty = unet.encode_texts(encoder.text_model, clip.token_ids(tokenizer, [""]))[0]
    data_of_task = moments, states, empty, autoencoder.config.scaling_factor, ranks
    first = _first_denoiser(config.work)
    if first.exists():
        model = UNet2DConditionModel.from_pretrained(first, torch_dtype=torch.float32)
    else:
        model, task = unet.unet_task(*data_of_task)
        fit(task, config.work / "unet", ranks)
        if ranks.first:
            _save(model, first)
    model, task = unet.unet_task(*data_of_task, model)
    fit(task, config.work / "unet-again", ranks)
    if ranks.first:
        _save(model, config.work / "unet-final")
    ranks.wait()
    _decoder(config.work, data.images, autoencoder, model, moments, states, ranks)
    if ranks.first:
        save_clip(encoder, tokenizer, config.weights / "tabletop-clip")
        save_sd(model, autoencoder, encoder, tokenizer, config.weights / "tabletop-sd")
        _record(config, "clip", f"{config.count} renders; {_schedule(clip.CONFIG)}.")
        _record(
            config,
            "sd",
            f"{config.count} renders; autoencoder: {_schedule(vae.CONFIG)}; UNet: "
            f"{_schedule(unet.CONFIG)}, then anew {_schedule(unet.AGAIN)}; "
            f"decoder once more: {_schedule(decoder.CONFIG)}.",
        )
    ranks.wait()


def _save(model: AutoencoderKL | UNet2DConditionModel, folder: Path) -> None:
    """The whole folder or none of it: one that is there is taken as finished."""
    with atomic(folder) as finished:
        model.save_pretrained(finished)


def _first_denoiser(work: Path) -> Path:
    """Where the denoiser of the first cycle is; one that is there is trained on, whoever trained it."""
    return work / "unet-first"


def _decoder_folder(work: Path) -> Path:
    """Where its checkpoints are; beside another UNet the decoder begins anew."""
    denoiser = work / "unet-final"
    return work / f"decoder-{model_identity(str(denoiser))[:12] if denoiser.exists() else 'of-none'}"


def _decoder(
    work: Path,
    images: NDArray[np.uint8],
    autoencoder: AutoencoderKL,
    model: UNet2DConditionModel,
    moments: NDArray[np.float16],
    states: NDArray[np.float16],
    ranks: Ranks,
) -> None:
    """Train the decoder of ``autoencoder`` in place, on what ``model`` gives back of the first renders."""
    channels, scale = autoencoder.config.latent_channels, autoencoder.config.scaling_factor
    folder = _decoder_folder(work)
    own = moments[: min(decoder.COUNT, len(moments)), :channels]

    def returned(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        generator = torch.Generator().manual_seed(int(rows[0]))
        latents = torch.from_numpy(own[rows]).float() * scale
        back: Tensor = decoder.give_back(model, latents, torch.from_numpy(states[rows]).float(), generator)
        values: NDArray[np.float32] = (back / scale).numpy()
        return values

    cache = RowCache(folder / "returned", own.shape[1:], len(own), "latents given back")
    given_back = cache.rows(np.arange(len(own)), returned, ranks)
    fit(decoder.decoder_task(autoencoder, images, own, given_back, ranks), folder, ranks)


def _schedule(config: FitConfig) -> str:
    """How long a part is trained, for its card."""
    falls = {"cosine": "falling by a cosine", "trapezoid": "falling to zero in the last fifth"}[config.schedule]
    return f"{config.steps:,} steps of {config.batch}, learning rate {config.lr:g} {falls}, seed {config.seed}"


def _record(config: PriorConfig, name: str, text: str) -> None:
    """Put one model's sentence into training.json, from which the cards are written."""
    path = config.weights / "training.json"
    write_json(path, {**(read_json(path) if path.exists() else {}), name: text})


def forecast(config: PriorConfig, ranks: Ranks) -> list[str]:
    """Lines that say how long each part still takes, from a few of its steps on this machine."""
    start = time.perf_counter()
    for index in range(10):
        render(sample_scene(TRAIN_SEED, index), IMAGE_SIZE)
    seconds = {"renders": (time.perf_counter() - start) / 10 * (config.count + config.judge_count) / 2}
    data = renders(config.work / "forecast", TRAIN_SEED, FORECAST_SAMPLES)  # some seconds, once
    words = build_tokenizer(data.captions, config.work / "forecast" / "tokenizer")
    moments = np.zeros((FORECAST_SAMPLES, 2 * LATENT_CHANNELS, IMAGE_SIZE // 8, IMAGE_SIZE // 8), np.float16)
    states = np.zeros((FORECAST_SAMPLES, TOKENS, TEXT_WIDTH), np.float16)
    tasks: dict[str, Task] = {}
    if config.part != "unet":
        tasks["judge"] = judge.judge_task(data, words)[1]
    if config.part == "all":
        tasks["clip"] = clip.clip_task(data, words)[1]
        tasks["vae"] = vae.vae_task(data.images, ranks)[1]
    if config.part != "judge":
        model, tasks["unet"] = unet.unet_task(moments, states, states[0], 1.0, ranks)
        tasks["unet-again"] = unet.unet_task(moments, states, states[0], 1.0, ranks, model)[1]
        latents = moments[:, :LATENT_CHANNELS]
        tasks["decoder"] = decoder.decoder_task(build_vae(), data.images, latents, latents, ranks)
    for name, task in tasks.items():
        folder = _decoder_folder(config.work) if name == "decoder" else config.work / name
        left = steps_left(task.config, folder)
        if name == "unet" and _first_denoiser(config.work).exists():
            left = 0
        elif name == "decoder" and seconds["unet"] + seconds["unet-again"]:
            left = task.config.steps  # beside a new denoiser it begins anew, whatever an earlier one's decoder has done
        seconds[name] = left and left * seconds_per_step(task)
    lines = [f"{name:10} {value / 3600:6.2f} h" for name, value in seconds.items()]
    return [
        f"time left on {ranks.world} process(es), at most:",
        *lines,
        f"{'all':10} {sum(seconds.values()) / 3600:6.2f} h",
    ]
