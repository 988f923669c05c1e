"""Measured quality of the tabletop models on a world they were not trained on, and their model cards.

    python -m evaluation.prior.quality --work prior-work

The second half of ``make prior``. Writes ``measured.json``, ``samples.png`` and the cards beside the weights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from diffusers import AutoencoderKL, StableDiffusionPipeline, UniPCMultistepScheduler
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import trange
from transformers import AutoModel, CLIPModel, CLIPTokenizer

from evaluation.judges.features import lite0_extractor
from evaluation.metrics.intervals import Estimate, mean_interval
from evaluation.metrics.kernel import kernel_estimate
from evaluation.prior.cards import write_cards
from pipeline.contract.errors import run_cli
from pipeline.contract.files import read_json, write_json
from pipeline.contract.identity import sha256_file
from pipeline.fidelity import annotator_of, fidelity
from pipeline.tabletop.scene import COLORS, FLOORS, SHAPES
from trainer.data.encode import to_model_range
from trainer.nets.base import WEIGHTS, model_identity
from trainer.prior import unet
from trainer.prior.clip import clip_pixels, token_ids
from trainer.prior.models import caption_words
from trainer.prior.renders import HELD_OUT_SEED, TRAIN_SEED, renders
from trainer.state.checkpoint import load_tensors

STEPS, GUIDANCE = 20, 4.0
EDGE_MEASURES = ("f1_0px", "f1_2px")
MEASURED = "measured.json"  # beside the weights: every figure of the cards


@torch.inference_mode()
def embed(
    clip: CLIPModel, tokenizer: CLIPTokenizer, images: NDArray[np.uint8], texts: list[str]
) -> tuple[Tensor, Tensor]:
    """Unit image embeddings (N, D) and text embeddings (M, D)."""
    pictures = [
        clip.get_image_features(pixel_values=clip_pixels(images[i : i + 64])).pooler_output
        for i in range(0, len(images), 64)
    ]
    ids = token_ids(tokenizer, texts)
    captions = [clip.get_text_features(input_ids=ids[i : i + 256]).pooler_output for i in range(0, len(ids), 256)]
    return F.normalize(torch.cat(pictures), dim=-1), F.normalize(torch.cat(captions), dim=-1)


def wilson(hits: int, n: int) -> list[float]:
    """95% interval of a proportion (Wilson, 1927), the method for n in the hundreds."""
    from scipy.stats import binomtest

    interval = binomtest(hits, n).proportion_ci(0.95, "wilson")
    return [round(interval.low, 4), round(interval.high, 4)]


def proportion(correct: NDArray[np.bool_]) -> dict[str, Any]:
    """``{"value", "ci", "n"}`` of a 0/1 array (N,)."""
    return {"value": round(float(correct.mean()), 4), "ci": wilson(int(correct.sum()), correct.size), "n": correct.size}


def retrieval(
    clip: CLIPModel, tokenizer: CLIPTokenizer, images: NDArray[np.uint8], texts: list[str], pool: int = 64
) -> dict[str, Any]:
    """Share of images whose own caption ranks first among ``pool`` (image-to-text R@1)."""
    of_images, of_texts = embed(clip, tokenizer, images, texts)
    correct = []
    for start in range(0, len(texts) // pool * pool, pool):
        part = slice(start, start + pool)
        correct.append((of_images[part] @ of_texts[part].T).argmax(1).numpy() == np.arange(pool))
    return proportion(np.concatenate(correct))


def caption_accuracy(
    clip: CLIPModel, tokenizer: CLIPTokenizer, images: NDArray[np.uint8], texts: list[str]
) -> dict[str, Any]:
    """Zero-shot: is the caption's word the best of its kind, with the rest of the caption as it is?

    For each image, each kind of word and each of its occurrences, the caption competes with those that have another
    word there; an occurrence is correct when the true caption scores highest.
    """
    kinds = {"color": tuple(COLORS), "shape": SHAPES, "floor": FLOORS}
    results = {}
    for name, words in kinds.items():
        variants, owners = [], []
        for i, text in enumerate(texts):
            parts = caption_words(text)
            for place in (k for k, w in enumerate(parts) if w in words):
                options = [parts[place], *(w for w in words if w != parts[place])]
                variants += [" ".join([*parts[:place], w, *parts[place + 1 :]]).replace(" ,", ",") for w in options]
                owners.append(i)
        of_images, of_texts = embed(clip, tokenizer, images, variants)
        scores = (of_images[owners][:, None] * of_texts.view(len(owners), len(words), -1)).sum(-1)
        results[name] = proportion((scores.argmax(1) == 0).numpy())
    return results


def _figure(estimate: Estimate, digits: int) -> dict[str, Any]:
    """``{"value", "ci", "n"}`` of an estimate, rounded."""
    ci = [None if v is None else round(v, digits) for v in (estimate.low, estimate.high)]
    return {"value": round(estimate.value, digits), "ci": ci, "n": estimate.n}


@torch.inference_mode()
def reconstructed(vae: AutoencoderKL, images: NDArray[np.uint8], batch: int = 32) -> NDArray[np.uint8]:
    """Encode to the posterior's mean and decode: (N, S, S, 3) uint8 to the same."""
    parts = []
    for i in range(0, len(images), batch):
        y = vae.decode(vae.encode(to_model_range(images[i : i + batch])).latent_dist.mean).sample
        parts.append(((y + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy())
    return np.concatenate(parts)


def reconstruction(vae: AutoencoderKL, images: NDArray[np.uint8]) -> dict[str, Any]:
    """What the autoencoder keeps of the first half of ``images``: PSNR, Canny F1, kid_lite0 to the other half.

    Canny's thresholds are drawn for each picture as in a dataset.
    """
    half = len(images) // 2
    again = reconstructed(vae, images[:half])
    error = (again.astype(np.float64) - images[:half]) / 255
    figures = {"psnr_db": _figure(mean_interval(-10 * np.log10((error**2).mean((1, 2, 3)))), 2)}
    annotator, reason = annotator_of("canny", [])
    assert annotator is not None, reason
    params = [annotator.draw(np.random.default_rng([HELD_OUT_SEED, i])) for i in range(half)]
    edges = [annotator.extract(image, p) for image, p in zip(images[:half], params, strict=True)]
    maps_of_edges = np.repeat(np.stack(edges)[..., None], 3, -1)
    for name, values in fidelity(again, maps_of_edges, params, annotator, EDGE_MEASURES).items():
        figures[f"canny_{name}"] = _figure(mean_interval(values), 4)
    distance = kernel_estimate(lite0_features(again), lite0_features(images[half:]), paired=False)
    return {**figures, "kid_lite0_x1000": _figure(distance, 3)}


def draw_samples(pipe: StableDiffusionPipeline, texts: list[str], seed: int, batch: int = 32) -> NDArray[np.uint8]:
    """One sample a caption, (N, S, S, 3) uint8; the noise of sample i is seeded by (seed, i)."""
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    samples: list[Image.Image] = []
    for start in trange(0, len(texts), batch, desc="samples", unit="batch"):
        part = texts[start : start + batch]
        generators = [torch.Generator().manual_seed(seed * 1_000_003 + start + i) for i in range(len(part))]
        samples += pipe(part, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=generators).images
    return np.stack([np.array(image) for image in samples])


def lite0_features(images: NDArray[np.uint8], batch: int = 32) -> NDArray[np.float32]:
    """(N, S, S, 3) uint8 -> (N, 1280) float32."""
    run = lite0_extractor().run
    parts = [images[i : i + batch] for i in range(0, len(images), batch)]
    return np.concatenate([run(torch.from_numpy(np.array(p)).permute(0, 3, 1, 2)).numpy() for p in parts])


def kernel_distances(images: NDArray[np.uint8], samples: NDArray[np.uint8]) -> dict[str, Any]:
    """kid_lite0 of samples against held-out renders, beside the floor: two disjoint sets of renders, same n."""
    n = len(samples)
    real = lite0_features(images[n : 2 * n])
    sets = {"samples": samples, "floor": images[:n]}
    return {name: _figure(kernel_estimate(lite0_features(each), real, paired=False), 3) for name, each in sets.items()}


def load_judge(folder: Path) -> tuple[CLIPModel, CLIPTokenizer]:
    """One of the package's CLIP models, whichever its towers, in float32."""
    return AutoModel.from_pretrained(folder, dtype=torch.float32).eval(), CLIPTokenizer.from_pretrained(folder)


def judge_figures(folder: Path, images: NDArray[np.uint8], texts: list[str]) -> dict[str, Any]:
    """What a CLIP gets right of true renders: retrieval over all, caption accuracy over the first quarter."""
    clip, tokenizer = load_judge(folder)
    return {
        "retrieval_at_1_of_64": retrieval(clip, tokenizer, images, texts),
        "caption_accuracy": caption_accuracy(clip, tokenizer, images[: len(images) // 4], texts[: len(texts) // 4]),
    }


def figures_of_samples(
    judge: Path, samples: NDArray[np.uint8], images: NDArray[np.uint8], captions: list[str]
) -> dict[str, Any]:
    """What a set of samples of the first captions is worth: `caption_accuracy` by ``judge`` and `kernel_distances`."""
    return {
        "caption_accuracy_of_samples": caption_accuracy(*load_judge(judge), samples, captions[: len(samples)]),
        "kid_lite0_x1000": kernel_distances(images, samples),
    }


def learning_curve(
    config: PriorQualityConfig, pipe: StableDiffusionPipeline, images: NDArray[np.uint8], captions: list[str]
) -> list[dict[str, Any]]:
    """`figures_of_samples` with the averaged weights of each milestone below ``config.work``, by samples seen.

    Each is kept beside its weights, so that a stopped measurement goes on; where no milestones are, because the
    weights were trained elsewhere, those of the last card stay if they were drawn and judged as is asked. Leaves the
    last milestone in ``pipe``.
    """
    judge = config.weights / "tabletop-judge"
    identity = model_identity(str(judge))
    asked = {"samples": config.samples, **sampler_of(config)}
    paths, rows = sorted((config.work / "unet").glob("ema-*.safetensors")), []
    last = config.weights / MEASURED
    if not paths and last.exists():
        figures = read_json(last)
        if figures.get("judge") == identity and figures["sampler"] == sampler_of(config):
            points = figures["learning_curve"]
            rows = [point for point in points if point["kid_lite0_x1000"]["samples"]["n"] == config.samples]
    for path in paths:
        key = {**asked, "judge": identity, "weights": sha256_file(path)}
        kept = path.with_suffix(".json")
        if not kept.exists() or read_json(kept)["key"] != key:
            pipe.unet.load_state_dict(load_tensors(path))
            samples = draw_samples(pipe, captions[: config.samples], config.seed)
            write_json(kept, {"key": key, "figures": figures_of_samples(judge, samples, images, captions)})
        seen = int(path.stem.removeprefix("ema-")) * unet.CONFIG.batch
        rows.append({"samples_seen": seen, **read_json(kept)["figures"]})
    return rows


@dataclass(frozen=True)
class PriorQualityConfig:
    """Measure the tabletop models and write their cards."""

    work: Path = Path("prior-work")  # where held-out renders are kept, and the averaged weights of the milestones
    weights: Path = WEIGHTS  # the models to measure; cards and figures go beside them
    samples: int = 512  # samples drawn; renders of another world are twice as many and more
    seed: int = 1  # of the samples' noise


def sampler_of(config: PriorQualityConfig) -> dict[str, Any]:
    """How samples are drawn, for the card and for what is kept of milestones."""
    return {"scheduler": "UniPC", "steps": STEPS, "guidance": GUIDANCE, "seed": config.seed}


def measure(config: PriorQualityConfig) -> dict[str, Any]:
    """Every figure of the model cards."""
    n = config.samples
    images, captions = renders(config.work, HELD_OUT_SEED, max(4 * n, 64))[:2]
    pipe = StableDiffusionPipeline.from_pretrained(config.weights / "tabletop-sd")
    samples = draw_samples(pipe, captions[:n], config.seed)
    tiles = [np.concatenate(list(samples[first : first + 8]), 1) for first in range(0, min(n, 32) // 8 * 8, 8)]
    Image.fromarray(np.concatenate(tiles)).save(config.weights / "tabletop-sd" / "samples.png")
    return {
        "sampler": sampler_of(config),
        "judge": model_identity(str(config.weights / "tabletop-judge")),
        "latent_channels": pipe.vae.config.latent_channels,
        **{
            name: judge_figures(config.weights / name, images, captions) for name in ("tabletop-clip", "tabletop-judge")
        },
        "reconstruction": reconstruction(pipe.vae, images[: 2 * n]),
        **figures_of_samples(config.weights / "tabletop-judge", samples, images, captions),
        "learning_curve": learning_curve(config, pipe, images, captions),
        "captions_of_samples_png": captions[: min(n, 32) // 8 * 8],
    }


def _main() -> None:
    config = tyro.cli(PriorQualityConfig, prog="python -m evaluation.prior.quality", description="Measure the prior.")
    figures = measure(config)
    write_json(config.weights / MEASURED, figures)
    training = read_json(config.weights / "training.json")
    write_cards(config.weights, figures, training, (TRAIN_SEED, HELD_OUT_SEED))
    print(json.dumps({k: v for k, v in figures.items() if not k.startswith("captions")}, indent=1))


if __name__ == "__main__":
    run_cli(_main)
