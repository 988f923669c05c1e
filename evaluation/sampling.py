"""Pictures from a pipeline: recipe, captions, maps and seeds in, pixels out."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evaluation.threads import side_by_side
from pipeline.contract.errors import CnlabError
from pipeline.contract.pictures import Pictures, to_uint8
from pipeline.contract.processes import process_pool

if TYPE_CHECKING:
    from diffusers import ControlNetModel

VERSION = "2"  # of what follows: noise, blocks, rounding
Prompt = Literal["perfect", "insufficient", "conflicting", "none"]
Weighting = Literal["both", "none", "paper", "diffusers"]
#: The paper's own "insufficient" prompt (Zhang et al., ICCV 2023, section 4.1).
INSUFFICIENT = "a high-quality, detailed, and professional image"


@dataclass(frozen=True)
class Recipe:
    """Sampling settings: everything that decides pixels beside nets, maps, captions and keys."""

    name: str
    steps: int
    guidance: float
    """Scale of classifier-free guidance; 1 or less: none."""
    scheduler: str = "UniPCMultistepScheduler"
    """A scheduler of diffusers by its class name."""
    negative_prompt: str = ""
    strength: tuple[float, ...] = (1.0,)
    """Factor of the ControlNet's outputs; with several nets one for each, or one for all."""
    weighting: Weighting = "both"
    """Where the ControlNet acts: on both halves of guidance (``both``); on the conditional half alone with weights 1
    (``none``), 64 / h of each output's height at 64 x 64 latents (``paper``, section 3.5), or 0.1 ... 1
    (``diffusers``, guess mode)."""
    prompt: Prompt = "perfect"
    """The sample's caption, the paper's ``insufficient`` one, another sample's caption, or none at all."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    block: int = 8
    """Pictures sampled together; a partial block is padded, so that a picture's bits depend on its own place alone."""
    version: str = VERSION

    @property
    def label(self) -> str:
        """The column ``recipe``: the row of `RECIPES` and, after commas, what differs from it."""
        base = asdict(RECIPES[self.name])
        own = asdict(self)
        return ",".join([self.name, *(f"{key}={_plain(own[key])}" for key in own if own[key] != base[key])])

    def strengths(self, nets: int) -> list[float]:
        """One strength a net; raises CnlabError when their number fits neither one nor all."""
        if len(self.strength) not in (1, nets):
            raise CnlabError(
                f"--recipe.strength has {len(self.strength)} values for {nets} ControlNets; give 1 or {nets}"
            )
        return list(self.strength) * (nets if len(self.strength) == 1 else 1)


#: Rows of settings known by a name. `controlnetpp`: Li et al., ECCV 2024, section 4.1 (their code adds a negative
#: prompt that the paper denies). `paper`: Zhang et al., ICCV 2023, section 4.1 (DDIM, 20 steps, scale 9).
RECIPES: dict[str, Recipe] = {
    "tabletop": Recipe("tabletop", 12, 3.0),
    "controlnetpp": Recipe("controlnetpp", 20, 7.5),
    "paper": Recipe("paper", 20, 9.0, "DDIMScheduler"),
}


def make_recipe(name: str, changes: dict[str, Any]) -> Recipe:
    """A row of `RECIPES` with the fields that are not None changed; raises CnlabError for an unknown name."""
    if name not in RECIPES:
        raise CnlabError(f"--recipe.name {name!r} is none of {', '.join(RECIPES)}")
    known = {field.name for field in fields(Recipe)}
    return replace(RECIPES[name], **{k: v for k, v in changes.items() if k in known and v is not None})


def _plain(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return "+".join(f"{v:g}" for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def seed_of(key: str, group: int) -> int:
    """Seed of a picture's noise: 63 bits of sha256(key, group), so it is the same in every arm and every run."""
    digest = hashlib.sha256(f"{key}\0{group}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class Painter:
    """A diffusers pipeline behind one call: captions, maps and seeds to pictures, a block at a time."""

    def __init__(self, model: str, controls: Sequence[str | Path], recipe: Recipe, device: str) -> None:
        """``controls``: ControlNet folders or hub names of any variant; none for the base model alone."""
        import diffusers

        from trainer.nets.control import load_control
        from trainer.nets.fit import check_pair
        from trainer.nets.models import load_pipeline

        self.recipe, self.dtype = recipe, getattr(torch, recipe.dtype)
        pipe = load_pipeline(model, Path(controls[0]) if controls else None, self.dtype)
        nets = [pipe.controlnet] if controls else []
        nets += [load_control(where, self.dtype) for where in controls[1:]]
        self.strengths = recipe.strengths(len(nets))
        for where, net in zip(controls, nets, strict=True):
            check_pair(str(where), net, model, pipe.unet.config)
            _prepare(net, recipe.weighting)
        if len(nets) > 1:
            from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel

            pipe.controlnet = MultiControlNetModel(nets)
        kind = getattr(diffusers, recipe.scheduler, None)
        if kind is None:
            raise CnlabError(f"--recipe.scheduler {recipe.scheduler!r} is no scheduler of diffusers")
        pipe.scheduler = kind.from_config(pipe.scheduler.config)
        self.pipe = pipe.to(device)
        self.nets = len(nets)

    def __call__(self, texts: Sequence[str], maps: Sequence[NDArray[Any]], seeds: Sequence[int], size: int) -> Pictures:
        """Sample one block.

        Parameters
        ----------
        texts
            B captions, B at most the recipe's block.
        maps
            For each ControlNet (B, S, S, 3) uint8, or int16 with -255 in pixels to be inpainted.
        seeds
            B seeds of the noise, `seed_of`.
        size
            S.

        Returns
        -------
        (B, S, S, 3) uint8
        """
        count, block = len(texts), self.recipe.block
        rows = np.minimum(np.arange(block), count - 1)  # padded by its last one
        shape = (self.pipe.unet.config.in_channels, size // self.pipe.vae_scale_factor)
        noise = _noise([seeds[row] for row in rows], *shape)
        call: dict[str, Any] = {
            "prompt": [texts[row] for row in rows],
            "negative_prompt": [self.recipe.negative_prompt] * block,
            "latents": noise.to(self.pipe.device, self.dtype),
        }
        if self.nets:
            # (B, 3, S, S) float in [0, 1], what the pipeline's own processor makes of a PIL picture
            hints = [torch.from_numpy(m[rows]).permute(0, 3, 1, 2).to(self.dtype) / 255 for m in maps]
            many = self.nets > 1
            call |= {
                "image": hints if many else hints[0],
                "controlnet_conditioning_scale": self.strengths if many else self.strengths[0],
                "guess_mode": self.recipe.weighting != "both",
            }
        images = self.pipe(
            **call,
            height=size,
            width=size,
            num_inference_steps=self.recipe.steps,
            guidance_scale=self.recipe.guidance,
            output_type="np",
        ).images
        return to_uint8(images[:count], "generation")

    def autoencode(self, images: Pictures) -> Pictures:
        """(N, S, S, 3) uint8 through the autoencoder and back: the best its decoder could do.

        A block at a time, on a CPU as many side by side as there are cores.
        """
        block = self.recipe.block
        parts = [images[start : start + block] for start in range(0, len(images), block)]
        return np.concatenate(side_by_side(self._autoencode_block, parts, self.pipe.device.type))

    def _autoencode_block(self, images: Pictures) -> Pictures:
        rows = np.minimum(np.arange(self.recipe.block), len(images) - 1)
        pixels = (torch.from_numpy(images[rows]).permute(0, 3, 1, 2) / 127.5 - 1).to(self.pipe.device, self.dtype)
        latents = self.pipe.vae.encode(pixels).latent_dist.mode()
        decoded = self.pipe.vae.decode(latents).sample.float() / 2 + 0.5
        return to_uint8(decoded.permute(0, 2, 3, 1).cpu().numpy()[: len(images)], "autoencoder")


class _OnceEncoded(nn.Module):
    """A hint encoder that reads a map once: the sampler hands it the same tensor at every step."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.last: tuple[Tensor, Tensor] | None = None

    def forward(self, hint: Tensor) -> Tensor:
        """(B, 3, S, S) in [0, 1] -> the encoder's features."""
        if self.last is None or self.last[0] is not hint:
            self.last = (hint, self.encoder(hint))
        return self.last[1]


def _prepare(net: ControlNetModel, weighting: Weighting) -> None:
    """Encode hints once, and weigh the outputs by the recipe's rule in place of guess mode's."""
    net.controlnet_cond_embedding = _OnceEncoded(net.controlnet_cond_embedding)
    if weighting not in ("none", "paper"):
        return

    def plain(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "guess_mode": False}  # the pipeline's guess mode: conditional half only

    net.register_forward_pre_hook(plain, with_kwargs=True)
    if weighting == "paper":
        net.register_forward_hook(_by_resolution)


def _by_resolution(module: nn.Module, args: Any, outputs: Any) -> Any:
    """w_i = 64 / h_i (Zhang et al., section 3.5), h_i relative to the largest output's, which is 64 at 512 pixels."""
    down, middle = outputs
    largest = down[0].shape[-1]
    return [each * (largest / each.shape[-1]) for each in down], middle * (largest / middle.shape[-1])


def _noise(seeds: list[int], channels: int, side: int) -> Tensor:
    """(B, channels, side, side) float32; each picture has its own generator on the CPU, whatever block and device."""
    draws = [torch.randn((channels, side, side), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(draws)


@contextlib.contextmanager
def workers(count: int, scheduler: str) -> Iterator[Executor | None]:
    """Who paints: workers of a running Dask scheduler, ``count`` processes of this machine, or (None) this process."""
    if scheduler:
        from distributed import Client

        try:
            client = Client(scheduler, timeout=20)
        except (OSError, ValueError) as error:
            raise CnlabError(
                f"no Dask scheduler answers at {scheduler} ({error}); start one, or leave it out"
            ) from error
        with client:
            info = client.scheduler_info()["workers"].values()
            gpu = any("GPU" in (worker.get("resources") or {}) for worker in info)
            yield client.get_executor(pure=False, retries=3, **({"resources": {"GPU": 1}} if gpu else {}))
    elif count > 1:
        with process_pool(count) as pool:
            yield pool
    else:
        yield None
