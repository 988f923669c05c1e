"""``make prior``: train the tabletop models from nothing and write them where the package ships them.

    python -m trainer.prior --work prior-work

Every part is resumable by the same command; the whole takes about five hours on two cores.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from pipeline.contract.errors import run_cli
from pipeline.contract.files import write_json


@dataclass(frozen=True)
class PriorConfig:
    """Train tabletop-clip and tabletop-sd; `python -m evaluation.prior.quality` then measures them."""

    work: Path = Path("prior-work")  # renders, caches, checkpoints: about 5 GB
    weights: Path = Path(__file__).parent / "weights"  # where the finished models go
    count: int = 40_000  # training renders
    reuse: bool = False  # keep the shipped CLIP and autoencoder, train only the UNet


def _train(config: PriorConfig) -> None:
    import numpy as np
    import torch
    from diffusers import AutoencoderKL
    from transformers import CLIPModel, CLIPTokenizer

    from trainer.prior.assemble import save_clip, save_sd
    from trainer.prior.clip import token_ids, train_clip
    from trainer.prior.models import build_tokenizer
    from trainer.prior.renders import TRAIN_SEED, renders
    from trainer.prior.unet import encode_texts, train_unet
    from trainer.prior.vae import encode_moments, train_vae

    work = config.work
    made = renders(work, TRAIN_SEED, config.count)
    images, captions = made.images, made.captions
    shipped = config.weights / "tabletop-clip", config.weights / "tabletop-sd" / "vae"
    clip_folder, vae_folder = shipped if config.reuse else (work / "clip-final", work / "vae-final")
    if not (clip_folder / "model.safetensors").exists():
        words = build_tokenizer(captions, work / "tokenizer")
        save_clip(train_clip(made, words, work / "clip"), words, clip_folder)
    if not vae_folder.exists():
        train_vae(images, work / "vae").save_pretrained(vae_folder)
    clip = CLIPModel.from_pretrained(clip_folder, dtype=torch.float32).eval()
    vae = AutoencoderKL.from_pretrained(vae_folder, torch_dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(clip_folder)
    moments, states = work / "moments.npy", work / "states.npy"
    if not moments.exists():
        np.save(moments, encode_moments(vae, images))
    if not states.exists():
        np.save(states, encode_texts(clip.text_model, token_ids(tokenizer, captions)))
    empty = encode_texts(clip.text_model, token_ids(tokenizer, [""]))[0]
    write_json(config.weights / "training.json", _history(config.count))
    unet = train_unet(
        np.load(moments, mmap_mode="r"), np.load(states, mmap_mode="r"), empty, vae.config.scaling_factor, work / "unet"
    )
    save_clip(clip, tokenizer, config.weights / "tabletop-clip")
    save_sd(unet, vae, clip, tokenizer, config.weights / "tabletop-sd")


def _history(count: int) -> dict[str, str]:
    """A sentence a model on how long it was trained, for the cards."""
    from trainer.prior import clip, unet, vae

    said = {
        name: f"{part.CONFIG.steps} steps of {part.CONFIG.batch}, peak learning rate {part.CONFIG.lr:g}"
        for name, part in (("clip", clip), ("vae", vae), ("unet", unet))
    }
    return {
        "clip": f"{count} renders; {said['clip']}; seed {clip.CONFIG.seed}.",
        "sd": f"{count} renders; autoencoder: {said['vae']}; UNet: {said['unet']}; seed {unet.CONFIG.seed}.",
    }


def main() -> None:
    """Entry point."""
    config = tyro.cli(PriorConfig, prog="python -m trainer.prior", description=PriorConfig.__doc__)
    run_cli(lambda: _train(config))


if __name__ == "__main__":
    main()
