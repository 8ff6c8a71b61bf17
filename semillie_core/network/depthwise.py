"""Depthwise convolution whose weight gradient is fast on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

FAST_WIDTH = 3
"""Columns up to which oneDNN has a vectorised weight gradient for channels-last depthwise kernels. Wider ones take
a reference path that is an order of magnitude slower."""


class DepthwiseConv(nn.Conv2d):
    """A square depthwise convolution, stride 1, padded with zeros to keep the size; ``(B, C, H, W)``.

    Parameters and results are those of ``nn.Conv2d(channels, channels, kernel_size, groups=channels)``.

    Args:
        channels: Number of channels, each convolved with a kernel of its own.
        kernel_size: Odd.
    """

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is None or not self._has_a_slow_gradient(x):
            return super().forward(x)
        # Autocast must not turn it to half precision either, whose gradients are slower still.
        with torch.autocast("cpu", enabled=False):
            y: Tensor = _DepthwiseInStrips.apply(x.float(), self.weight, self.bias)  # type: ignore[no-untyped-call]
        return y.to(x.dtype)

    def _has_a_slow_gradient(self, x: Tensor) -> bool:
        return (
            not torch.compiler.is_compiling()
            and x.device.type == "cpu"
            and self.weight.dtype == torch.float32
            and (x.dtype == torch.float32 or torch.is_autocast_enabled("cpu"))
            and FAST_WIDTH < self.kernel_size[1] <= x.shape[3]
            and self.weight.requires_grad
            and torch.is_grad_enabled()
            and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        )


class _DepthwiseInStrips(torch.autograd.Function):
    """Depthwise convolution that finds its weight gradient in strips of columns.

    The middle columns of the kernel are a narrower convolution with the same centre; each column further out is a
    kernel of one column on the image moved sideways. The image must be at least as wide as half the kernel.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(x, weight, bias, padding=weight.shape[2] // 2, groups=weight.shape[0])

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        for_x, for_weight, for_bias = ctx.needs_input_grad  # type: ignore[attr-defined]
        pad = weight.shape[2] // 2

        def gradients(
            x: Tensor, columns: Tensor, *wanted: bool
        ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
            found: tuple[Tensor | None, Tensor | None, Tensor | None] = torch.ops.aten.convolution_backward(
                grad, x, columns, [grad.shape[1]], [1, 1], [pad, columns.shape[3] // 2], [1, 1],
                False, [0, 0], grad.shape[1], wanted
            )  # fmt: skip
            return found

        grad_x = gradients(x, weight, True, False, False)[0] if for_x else None
        if not for_weight:
            return grad_x, None, grad.sum((0, 2, 3)) if for_bias else None
        reach = FAST_WIDTH // 2
        _, middle, grad_bias = gradients(x, weight[..., :FAST_WIDTH], False, True, for_bias)
        strips = [
            gradients(F.pad(x, (-offset, offset)), weight[..., :1], False, True, False)[1]
            for offset in range(-pad, pad + 1)
            if abs(offset) > reach
        ]
        strips.insert(len(strips) // 2, middle)
        return grad_x, torch.cat(strips, dim=3), grad_bias  # type: ignore[arg-type]
