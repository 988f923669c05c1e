"""Captions with artists, mediums and flavours, by clip-interrogator."""

from __future__ import annotations

import contextlib
import io
import json
import os
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.captions.base import Picture
from pipeline.captions.blip import Blip
from pipeline.contract.errors import CnlabError
from pipeline.contract.models import loading, pick_device, weights_identity

DEFAULT = "ViT-L-14/openai"  # the CLIP of SD 1.x, as clip-interrogator advises for it
MODES = {"fast": "interrogate_fast", "classic": "interrogate_classic", "best": "interrogate"}
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")  # names that open_clip writes


class InterrogatorCaption:
    """BLIP's caption, then the phrases of clip-interrogator's lists that its CLIP likes best.

    weights  open_clip's ``ARCHITECTURE/TAG``, or a local folder with open_clip_config.json and its weights, and, if
             wanted, ``data/`` with other phrase lists (artists.txt, flavors.txt, mediums.txt, movements.txt,
             negative.txt; one phrase a line)
    caption  weights of `Blip`, which says the first part
    mode     fast, classic or best (slow: hundreds of text encodings an image)
    """

    def __init__(self, weights: str = "", caption: str = "", mode: str = "fast") -> None:
        if mode not in MODES:
            raise CnlabError(f"unknown mode {mode!r} of the interrogator; there are {', '.join(MODES)}")
        self.name = "interrogator" if mode == "fast" else f"interrogator:{mode}"
        self.weights, self.mode, self.blip = weights or DEFAULT, mode, Blip(caption)

    def prepare(self) -> None:
        """Load both models; embeds the phrase lists (100,000 phrases: minutes) once and keeps that in a cache."""
        self.blip.prepare()
        _interrogator(self.weights)

    def caption(self, image: Picture, texts: Mapping[str, str]) -> str | None:
        """Deterministic: no mode samples."""
        import torch

        blip_caption = self.blip.caption(image, texts)
        if not blip_caption:
            return None
        ask = getattr(_interrogator(self.weights), MODES[self.mode])
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.cuda.amp.autocast of the package is deprecated, and idle on a CPU
            text: str = ask(Image.fromarray(image), caption=blip_caption)
        return text


@cache
def _interrogator(where: str) -> Any:
    with loading("interrogator", where), contextlib.redirect_stderr(io.StringIO()):
        from clip_interrogator import Config, Interrogator

        config = Config(
            caption_model_name=None, quiet=True, device=pick_device(), cache_path=str(_cache()), clip_model_name=where
        )
        folder = Path(where)
        if folder.is_dir():
            config.clip_model, config.clip_preprocess = _local(folder)
            # the package names its cache of embedded phrases by this: a hash, so that no other model's is read
            digest = weights_identity(where)[:16]
            config.clip_model_name, config.download_cache = f"ViT-L-14/{digest}", False  # only its tokenizer is used
        if (folder / "data").is_dir():
            config.data_path = str(folder / "data")
        return Interrogator(config)


def _files(folder: Path) -> list[Path]:
    files = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not files:  # open_clip itself would go on with random weights
        raise CnlabError(f"none of {', '.join(WEIGHTS)} lies there")
    return [folder / "open_clip_config.json", *files]


def _local(folder: Path) -> tuple[Any, Any]:
    """(model, preprocessing) of a folder as open_clip saves it."""
    import open_clip

    text = json.loads(_files(folder)[0].read_text())["model_cfg"]["text_cfg"]
    if text.get("hf_tokenizer_name"):
        raise CnlabError("clip-interrogator needs a CLIP with OpenAI's tokenizer")
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}", device=pick_device())
    return model.eval(), preprocess


def _cache() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "controlnet-lab" / "interrogator"
