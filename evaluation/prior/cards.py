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
16 x 16 x {channels} latents, a CLIP text encoder (the text tower of tabletop-clip), classifier-free guidance. It is the
default prior of controlnet-lab: it exists so that the whole path runs without a model hub, and knows nothing but its
tables.

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
kind in that place, judged by tabletop-judge, which is no part of this model. The row of renders is what the judge
reaches on true pictures. KID on EfficientNet-Lite0 features (not Inception); the floor is two disjoint sets of renders
of the same size. Canny F1: edges of a reconstruction against those of the render, within 0 and 2 pixels.
{curve}
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

# {name}
{purpose} {training}

## Measured

On world {held_out_seed}, which no training saw; 95 % intervals.

| | value | interval | n |
|---|---|---|---|
{rows}

Retrieval: image to text among 64 held-out captions. Accuracy: share of words of that kind, in captions of true
renders, that win against every other word of the kind in their place (chance: colour 1/8, shape 1/5, floor 1/5).
It says nothing about any picture but tabletop's.
"""
PURPOSE = {
    "tabletop-clip": """
A small CLIP (64 patches of 16 pixels at 128 x 128; 32 tokens; 128-dimensional embeddings) trained on captions of
rendered still lifes. Its text tower conditions tabletop-sd. Contrastive loss with altered captions as hard negatives
(words exchanged, or replaced by another of their kind); the text state of each noun also names its object, whether or
not the pictures' tower can tell it from another.""",
    "tabletop-judge": """
A small CLIP with a ConvNeXt for pictures (128 x 128; 32 tokens; 128-dimensional embeddings; transformers'
`VisionTextDualEncoderModel`) that only judges: it is controlnet-lab's default for the CLIP score of still lifes. The
prior shares no weights, seed, architecture or training picture with it. Contrastive loss with altered captions as hard
negatives, every other shape among them; two heads, not part of the model, named shape and colour of what covers each
cell of 8 pixels, and the objects of the picture.""",
}

CURVE = """
## As it trained

Averaged weights at the recipe's milestones (the learning rate falls in the last fifth of each cycle),
n = {n} samples a row.

| samples seen | kid_lite0 x1000 | shapes | colours |
|---|---|---|---|
{rows}
"""


def _row(name: str, figure: dict[str, Any]) -> str:
    low, high = figure["ci"]
    return f"| {name} | {figure['value']} | {low} ... {high} | {figure['n']} |"


def _curve(points: list[dict[str, Any]]) -> str:
    """The section on the milestones; "" without any."""
    if not points:
        return ""
    rows = []
    for point in points:
        judged = point["caption_accuracy_of_samples"]
        figures = (point["kid_lite0_x1000"]["samples"], judged["shape"], judged["color"])
        cells = (f"{f['value']} [{f['ci'][0]}, {f['ci'][1]}]" for f in figures)
        rows.append(f"| {point['samples_seen']:,} | {' | '.join(cells)} |")
    return CURVE.format(n=points[0]["kid_lite0_x1000"]["samples"]["n"], rows="\n".join(rows))


def write_cards(weights: Path, figures: dict[str, Any], training: dict[str, str], seeds: tuple[int, int]) -> None:
    """Write README.md beside the three models.

    figures   of `evaluation.prior.quality.measure`
    training  a sentence a model on how long it was trained: keys ``clip``, ``judge`` and ``sd``
    seeds     of the training and of the held-out world
    """
    judged = {
        "renders": figures["tabletop-judge"]["caption_accuracy"],
        "samples": figures["caption_accuracy_of_samples"],
    }
    rows = [
        *(_row(f"autoencoder, {name}", figure) for name, figure in figures["reconstruction"].items()),
        *(_row(f"{kind} accuracy of {of}", judged[of][kind]) for kind in judged["renders"] for of in judged),
        *(_row(f"kid_lite0 x1000, {name}", figures["kid_lite0_x1000"][name]) for name in ("samples", "floor")),
    ]
    texts = {
        "tabletop-sd": SD_CARD.format(
            shape=judged["samples"]["shape"]["value"],
            judge=judged["renders"]["shape"]["value"],
            train_seed=seeds[0],
            held_out_seed=seeds[1],
            training=training["sd"],
            rows="\n".join(rows),
            channels=figures["latent_channels"],
            curve=_curve(figures["learning_curve"]),
            **{k: figures["sampler"][k] for k in ("scheduler", "steps", "guidance")},
        )
    }
    for name, purpose in PURPOSE.items():
        own = figures[name]
        lines = [
            _row("caption retrieval R@1 of 64", own["retrieval_at_1_of_64"]),
            *(_row(f"{kind} accuracy", figure) for kind, figure in own["caption_accuracy"].items()),
        ]
        texts[name] = CLIP_CARD.format(
            name=name,
            purpose=purpose,
            training=training[name.removeprefix("tabletop-")],
            held_out_seed=seeds[1],
            rows="\n".join(lines),
        )
    for folder, text in texts.items():
        with atomic(weights / folder / "README.md") as temporary:
            temporary.write_text(text)
