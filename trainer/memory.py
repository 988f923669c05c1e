"""What a run takes of a GPU's memory, told before it starts: real networks under fake tensors, which hold no data.

Every live storage of a forward pass is followed as it would be allocated on a CUDA device, which need not be there.
Gradients and optimizer states follow from the numbers of weights. Allocator, kernels' workspaces and the CUDA context
come on top: `RESERVE`.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ControlNetModel, DiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from pipeline.contract.errors import CnlabError, first_line
from trainer.config import Training
from trainer.data.encode import ENCODE_BATCH
from trainer.loop import predict
from trainer.nets.base import PLAIN, BaseOptions, model_folder
from trainer.nets.control import LIGHT, build_control, decoder_parameters

GIB = 2**30
RESERVE = 1.0 * GIB  # CUDA context, kernels' workspaces, fragmentation
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
CUDA = torch.device("cuda")
CASTS = ("aten._to_copy", "aten.copy_")


class Ledger(TorchDispatchMode):
    """Bytes of live storages and their peak, and how often each kernel is called, while it is entered."""

    def __init__(self) -> None:
        """Nothing is live yet."""
        super().__init__()
        self.live = self.peak = 0
        self.sizes: dict[int, int] = {}
        self.calls: Counter[str] = Counter()
        self.casts = 0

    def add(self, tensor: Tensor) -> None:
        """Follow the storage of ``tensor`` until it is freed."""
        storage = tensor.untyped_storage()
        if storage._cdata in self.sizes:
            return
        self.sizes[storage._cdata] = storage.nbytes()
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, storage._cdata)

    def _free(self, key: int) -> None:
        self.live -= self.sizes.pop(key)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run ``func`` and note what it returns."""
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        if not func.is_view and not str(func).startswith(("prim.", "aten.detach", "aten._unsafe_view")):
            self.calls[str(func)] += 1
            self.casts += str(func).startswith(CASTS) and any(
                isinstance(a, Tensor) and a.dtype != t.dtype for a in args for t in tensors
            )
        for tensor in tensors:
            self.add(tensor)
        return out


class _Attention(torch.autograd.Function):
    """Holds for its backward what the fused kernels hold: inputs, output, and the logarithms of the sums."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = q.new_empty((*q.shape[:-1], v.shape[-1]))
        ctx.save_for_backward(q, k, v, out, torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, *_ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _fused(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> Tensor:
    if torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    out: Tensor = _Attention.apply(q, k, v)
    return out


@contextlib.contextmanager
def fake_cuda() -> Iterator[None]:
    """Tensors without data on a CUDA device that need not be there."""
    with (
        mock.patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
        mock.patch("torch.cuda.is_bf16_supported", lambda *_, **__: True),
        mock.patch.object(F, "scaled_dot_product_attention", _fused),
        FakeTensorMode(allow_non_fake_inputs=True),
    ):
        yield


@dataclass(frozen=True)
class Architecture:
    """What decides the memory of a latent diffusion model: the configurations of its parts."""

    unet: dict[str, Any]
    vae: dict[str, Any]
    text_parameters: int
    tokens: int = 77

    def build_unet(self, dtype: torch.dtype = torch.float32) -> UNet2DConditionModel:
        """Frozen, on the default device."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)  # fake weights cannot be cast afterwards
        try:
            return UNet2DConditionModel.from_config(self.unet).requires_grad_(False)
        finally:
            torch.set_default_dtype(before)


def architecture_of(model: str, options: BaseOptions = PLAIN) -> Architecture:
    """Of a model by name, from its configurations alone. Raises CnlabError when it cannot be had."""
    where = model_folder(model, options, configs_only=True)
    try:
        xl = "text_encoder_2" in DiffusionPipeline.load_config(where)
        unet = UNet2DConditionModel.load_config(where, subfolder="unet")
        vae = AutoencoderKL.load_config(where, subfolder="vae")
        kinds = {"": CLIPTextModel} | ({"_2": CLIPTextModelWithProjection} if xl else {})
        parameters, tokens = 0, 77
        for end, kind in kinds.items():
            config = CLIPTextConfig.from_pretrained(where, subfolder=f"text_encoder{end}")
            with torch.device("meta"):
                parameters += sum(p.numel() for p in kind(config).parameters())
            tokens = config.max_position_embeddings
    except (OSError, ValueError) as error:
        raise CnlabError(f"the configurations of model {model!r} cannot be had: {first_line(error)}") from error
    return Architecture(unet, vae, parameters, tokens)


@dataclass(frozen=True)
class Measured:
    """One pass: peak bytes of what it allocates itself, kernel calls, and casts among them."""

    peak: int
    calls: int
    casts: int
    weights: int  # bytes of the networks, before


def measure_encode(architecture: Architecture, images: int, size: int) -> Measured:
    """The autoencoder's encoder in fp32, as `trainer.data.encode.encode_images`."""
    with fake_cuda(), CUDA:
        vae = AutoencoderKL.from_config(architecture.vae).requires_grad_(False)
        pixels, ledger = torch.empty(images, 3, size, size), Ledger()
        with torch.no_grad(), ledger:
            _ = vae.encode(pixels).latent_dist.mean
        return _measured(ledger, _bytes(vae) + _size(pixels))


def measure_decode(architecture: Architecture, images: int, size: int) -> Measured:
    """The autoencoder's decoder in fp32, as `trainer.watch.samples.decode`."""
    with fake_cuda(), CUDA:
        vae = AutoencoderKL.from_config(architecture.vae).requires_grad_(False)
        scale = 2 ** (len(vae.config.block_out_channels) - 1)
        latents, ledger = torch.empty(images, vae.config.latent_channels, size // scale, size // scale), Ledger()
        with torch.no_grad(), ledger:
            _ = vae.decode(latents).sample
        return _measured(ledger, _bytes(vae) + _size(latents))


def measure_forward(
    architecture: Architecture, training: Training, images: int, size: int, gradients: bool = True
) -> Measured:
    """The forward pass of a step over one micro-batch: what is alive at its end is what backward needs."""
    half = HALF.get(training.precision)
    with fake_cuda():
        with CUDA:
            unet = architecture.build_unet(torch.float32 if training.unlock_decoder else half or torch.float32)
            control = control_of(unet, training)
        for parameter in decoder_parameters(unet) if training.unlock_decoder else ():
            parameter.requires_grad_(True)
        if "checkpointing" in training.engine:
            unet.enable_gradient_checkpointing()
            control.enable_gradient_checkpointing()
        batch = _inputs(architecture, unet, images, size)
        ledger = Ledger()
        with ledger, torch.set_grad_enabled(gradients):
            loss = predict(unet, control, batch, half).float().square().mean()
        del loss
        return _measured(ledger, _bytes(unet, control))


def control_of(unet: UNet2DConditionModel, training: Training) -> ControlNetModel:
    """The net that ``training`` trains, with weights of no meaning."""
    hint = training.hint
    if training.variant in LIGHT:
        return build_control(unet, hint.channels, 0, hint.init, training.variant)
    # vae: a little more (the encoder's weights); lora: less (gradients and optimizer states of the updates alone)
    return ControlNetModel.from_unet(
        unet, conditioning_embedding_out_channels=hint.channels, load_weights_from_unet=False
    ).train()


def _inputs(architecture: Architecture, unet: UNet2DConditionModel, images: int, size: int) -> dict[str, Tensor]:
    config: Any = unet.config
    side = size // 2 ** (len(architecture.vae["block_out_channels"]) - 1)
    with CUDA:
        batch = {
            "noisy": torch.empty(images, config.in_channels, side, side),
            "t": torch.zeros(images, dtype=torch.int64),
            "states": torch.empty(images, architecture.tokens, config.cross_attention_dim),
            "hint": torch.empty(images, 3, size, size),
        }
        if config.addition_embed_type == "text_time":
            pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
            batch |= {"pooled": torch.empty(images, pooled), "time_ids": torch.empty(images, 6)}
    return batch


def _bytes(*modules: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for module in modules for p in module.parameters())


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _measured(ledger: Ledger, weights: int) -> Measured:
    return Measured(ledger.peak, sum(ledger.calls.values()), ledger.casts, weights)


def gib_line(name: str, value: float) -> str:
    """A row of a table of bytes."""
    return f"  {name:44} {value / GIB:6.2f} GiB"


@dataclass(frozen=True)
class Plan:
    """Bytes on the device while training; what is computed and what is measured under fake tensors apart."""

    weights: int  # UNet, ControlNet, text encoders
    gradients: int  # computed: 4 bytes a trained weight
    optimizer: int  # computed: 8 bytes a trained weight, 2 in 8 bits; 4 more with a moving average
    fixed: float  # of a forward pass, whatever its images
    per_image: float  # of a forward pass
    encode: int  # peak while latents are encoded: the autoencoder alone
    paint: int  # peak of a validation beside weights and optimizer

    def peak(self, micro_batch: int) -> float:
        """Of a training step, without `RESERVE`."""
        return self.weights + self.gradients + self.optimizer + self.fixed + self.per_image * micro_batch

    def needs(self, micro_batch: int) -> float:
        """Bytes a device must have."""
        looking = self.weights + self.optimizer + self.paint
        return RESERVE + max(self.peak(micro_batch), self.encode, looking)

    def micro_batch(self, batch: int, capacity: float) -> int:
        """The largest equal part of ``batch`` that fits ``capacity`` bytes; 0 when not even one image does."""
        parts = [n for n in range(batch, 0, -1) if batch % n == 0]
        return next((n for n in parts if self.needs(n) <= capacity), 0)

    def lines(self, micro_batch: int) -> list[str]:
        """For people."""
        rows = {
            "weights": self.weights,
            "gradients (computed)": self.gradients,
            "optimizer (computed)": self.optimizer,
            f"activations of {micro_batch} images": self.fixed + self.per_image * micro_batch,
            "encoding latents, before training": self.encode,
            "a validation, beside weights and optimizer": self.paint,
            "needed, with 1 GiB in reserve": self.needs(micro_batch),
        }
        return [gib_line(name, value) for name, value in rows.items()]


def plan(
    architecture: Architecture, training: Training, size: int, encode_batch: int = ENCODE_BATCH, paint_batch: int = 4
) -> Plan:
    """The plan of a run on pictures of ``size`` px: forward passes of one and two images, extended to any number."""
    first, second = (measure_forward(architecture, training, n, size) for n in (1, 2))
    per_image = second.peak - first.peak
    with torch.device("meta"):
        unet = architecture.build_unet()
        control = control_of(unet, training)
    trained = sum(p.numel() for p in control.parameters() if p.requires_grad)
    trained += sum(p.numel() for p in decoder_parameters(unet)) if training.unlock_decoder else 0
    settings = training.optimizer
    states = (2 if settings.eight_bit else 8) + (4 if settings.ema else 0)
    text = 0 if "text_cache" in training.engine else (2 if training.precision in HALF else 4)
    painting = measure_forward(architecture, training, 2 * paint_batch, size, gradients=False)
    decoding = measure_decode(architecture, paint_batch, size)
    encoding = measure_encode(architecture, encode_batch, size)
    return Plan(
        weights=first.weights + text * architecture.text_parameters,
        gradients=4 * trained,
        optimizer=states * trained,
        fixed=first.peak - per_image,
        per_image=per_image,
        encode=encoding.peak + encoding.weights,
        paint=max(painting.peak, decoding.peak + decoding.weights),
    )
