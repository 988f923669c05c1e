"""Model cards of the tabletop models, written from what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.contract.files import atomic

SD_CARD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
tags:
- stable-diffusion
- text-to-image
- controlnet-lab
---

# tabletop-sd

A small Stable Diffusion of still lifes at 128 x 128 pixels, in diffusers' format and with SD 1.5's topology: four
levels, two layers a level (12 encoder blocks and a middle one, hence 13 ControlNet outputs), an 8x autoencoder to
16 x 16 x 4 latents, a CLIP text encoder (the text tower of tabletop-clip), classifier-free guidance. It is the default
prior of controlnet-lab: it exists so that the whole path runs without a model hub, and knows nothing but its tables.

![Samples for the first captions of the held-out world](samples.png)

## Training

Data: renders of `pipeline.tabletop`, world {train_seed}, no photographs, no people. Recipe: `python -m trainer.prior`
(configs at the head of trainer/prior/vae.py, clip.py and unet.py). {training}
Prediction type: velocity. Prompts dropped: 10 %.

## Measured

On world {held_out_seed}, which no training saw; {scheduler}, {steps} steps, guidance {guidance}; 95 % intervals.

| | value | interval | n |
|---|---|---|---|
{rows}

Accuracy: share of words of that kind for which the true caption beats the same caption with any other word of the
kind in that place, judged by tabletop-clip. The row of renders is what the judge reaches on true pictures.
KID on EfficientNet-Lite0 features (not Inception); the floor is two disjoint sets of renders of the same size.

## Limits

Text of more than 32 tokens is cut. Of the words of a caption, floors and colours are learned first, shapes later,
materials last; neighbouring objects merge. The rows above say how far this copy has come: it puts {shape} of the
shapes right by a judge that itself gets {judge} of the shapes of true renders.
"""

CLIP_CARD = """---
license: apache-2.0
library_name: transformers
tags:
- clip
- controlnet-lab
---

# tabletop-clip

A small CLIP (64 patches of 16 pixels at 128 x 128; 32 tokens; 128-dimensional embeddings) trained on captions of
rendered still lifes. Its text tower conditions tabletop-sd; with its image tower it is controlnet-lab's default judge
of the CLIP score. Contrastive loss with swapped captions as hard negatives (two colours, shapes, materials or sizes
of one caption exchanged). {training}

## Measured

| | value | interval | n |
|---|---|---|---|
{rows}

Retrieval: image to text among 64 held-out captions. Accuracy: share of words of that kind, in captions of true
renders, that win against every other word of the kind in their place (chance: colour 1/8, shape 1/5, floor 1/5).
It says nothing about any picture but tabletop's.
"""


def _row(name: str, figure: dict[str, Any]) -> str:
    low, high = figure["ci"]
    return f"| {name} | {figure['value']} | {low} ... {high} | {figure['n']} |"


def write_cards(weights: Path, figures: dict[str, Any], training: dict[str, str], seeds: tuple[int, int]) -> None:
    """Write README.md beside both models.

    figures   of `evaluation.prior.quality.measure`
    training  a sentence a model on how long it was trained: keys ``clip`` and ``sd``
    seeds     of the training and of the held-out world
    """
    accuracy, distance = figures["caption_accuracy"], figures["kid_lite0_x1000"]
    rows = [
        _row("autoencoder PSNR, dB", figures["reconstruction_psnr_db"]),
        *(_row(f"{kind} accuracy of {of}", accuracy[of][kind]) for kind in accuracy["renders"] for of in accuracy),
        *(_row(f"kid_lite0 x1000, {name}", distance[name]) for name in ("samples", "floor")),
    ]
    judge = [
        _row("caption retrieval R@1 of 64", figures["retrieval_at_1_of_64"]),
        *(_row(f"{kind} accuracy", accuracy["renders"][kind]) for kind in accuracy["renders"]),
    ]
    sampler = {k: figures["sampler"][k] for k in ("scheduler", "steps", "guidance")}
    card = SD_CARD.format(
        shape=accuracy["samples"]["shape"]["value"],
        judge=accuracy["renders"]["shape"]["value"],
        train_seed=seeds[0],
        held_out_seed=seeds[1],
        training=training["sd"],
        rows="\n".join(rows),
        **sampler,
    )
    texts = {"tabletop-sd": card, "tabletop-clip": CLIP_CARD.format(training=training["clip"], rows="\n".join(judge))}
    for folder, text in texts.items():
        with atomic(weights / folder / "README.md") as temporary:
            temporary.write_text(text)
