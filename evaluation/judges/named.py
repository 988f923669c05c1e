"""Feature extractors by name, the part of every distance that has to be named beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.judges.features import Extractor, inception_extractor, lite0_extractor
from pipeline.contract.errors import CnlabError, first_line
from pipeline.contract.models import loading, weights_identity

if TYPE_CHECKING:
    from torch import Tensor

KINDS = "lite0, inception, inception:WEIGHTS, clip:NAME, torchvision:NAME, model:FOLDER-OR-HUB-NAME"


def get_extractor(name: str, device: str = "cpu") -> Extractor:
    """The extractor of a name; raises CnlabError for unknown ones and for models that cannot be had.

    ======================  ================================================================================
    ``lite0``               ImageNet EfficientNet-Lite0, shipped: ``fd_lite0``, ``kid_lite0``
    ``inception[:PATH]``    torch-fidelity's Inception, by its own download or from a file: ``fid``, ``kid``
    ``clip:NAME``           image tower of a CLIP model (tabletop, folder or hub name): ``fd_clip-NAME`` ...
    ``torchvision:NAME``    any classifier of torchvision with its default weights, before its last layer
    ``model:NAME``          any vision model of transformers (folder or hub name), e.g. DINOv2: pooled output
    ======================  ================================================================================
    """
    kind, _, where = name.partition(":")
    if kind == "lite0":
        return lite0_extractor(device)
    if kind == "inception":
        return inception_extractor(Path(where) if where else _downloaded_inception(), device)
    makers: dict[str, Callable[[str, str], Extractor]] = {
        "clip": _clip, "torchvision": _torchvision, "model": _transformers,
    }  # fmt: skip
    if kind not in makers or not where:
        raise CnlabError(f"unknown features {name!r}; there are {KINDS}")
    return makers[kind](where, device)


def _metrics(kind: str, where: str) -> tuple[str, str]:
    label = f"{kind}-{Path(where.rstrip('/')).name}"
    return f"fd_{label}", f"kid_{label}"


def _downloaded_inception() -> Path:
    """Where torch-fidelity keeps its weights, fetched if need be."""
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path = Path(torch.hub.get_dir(), "checkpoints", str(URL_INCEPTION_V3).rsplit("/", 1)[-1])
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path))
        except OSError as error:
            raise CnlabError(
                f"torch-fidelity's Inception weights cannot be fetched ({first_line(error)}); "
                f"download {URL_INCEPTION_V3} elsewhere and give its path"
            ) from error
    return path


def _clip(where: str, device: str) -> Extractor:
    import torch

    from pipeline.contract.clip import load_clip
    from trainer.nets.models import resolve_clip

    clip = load_clip(resolve_clip(where), device, "clip:")

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(clip.images(images.permute(0, 2, 3, 1).numpy())).float()

    identity = weights_identity(resolve_clip(where))
    return Extractor(f"clip-{identity[:12]}", _metrics("clip", where), clip.model.config.projection_dim, run)


def _torchvision(where: str, device: str) -> Extractor:
    import torch
    from torch import nn
    from torchvision.models import get_model, get_model_weights

    with loading("torchvision", where, "torchvision:"):
        weights = get_model_weights(where).DEFAULT
        net = get_model(where, weights=weights).to(device).eval()
    *_, (last, head) = [(n, m) for n, m in net.named_modules() if isinstance(m, nn.Linear)]
    parent = net.get_submodule(last.rpartition(".")[0])
    setattr(parent, last.rpartition(".")[2], nn.Identity())
    prepare = weights.transforms(antialias=True)

    def run(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return torch.as_tensor(net(prepare(images).to(device))).float().cpu()

    return Extractor(f"torchvision-{weights}", _metrics("torchvision", where), head.in_features, run)


def _transformers(where: str, device: str) -> Extractor:
    import torch

    with loading("model", where, "model:"):
        from transformers import AutoImageProcessor, AutoModel

        net: Any = AutoModel.from_pretrained(where).to(device).eval()
        processor = AutoImageProcessor.from_pretrained(where)

    def run(images: Tensor) -> Tensor:
        pixels = processor(images=list(images), return_tensors="pt")["pixel_values"].to(device)
        with torch.inference_mode():
            out = net(pixel_values=pixels)
        pooled = getattr(out, "pooler_output", None)
        features: Tensor = out.last_hidden_state[:, 0] if pooled is None else pooled
        return features.flatten(1).float().cpu()

    width = run(torch.zeros((1, 3, 8, 8), dtype=torch.uint8)).shape[1]
    return Extractor(f"model-{weights_identity(where)[:12]}", _metrics("model", where), width, run)
