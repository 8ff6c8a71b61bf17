"""Selective scan on NVIDIA and AMD GPUs through Triton (float32), four directions at once.

Chunks of the sequences run in parallel, so a single image fills a GPU; see :mod:`.triton_kernels`.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_CHUNK = 64
_CHANNEL_BLOCK = 32


def unavailable_reason() -> str | None:
    """Why Triton cannot be used, or ``None``."""
    if not torch.cuda.is_available():
        return "PyTorch sees no NVIDIA or AMD GPU"
    if torch.version.hip is None and torch.cuda.get_device_capability() < (7, 0):
        return "Triton needs an NVIDIA GPU of compute capability 7.0 (Volta) or later"
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed (on Windows: `pip install triton-windows`)"
    version: str = importlib.import_module("triton").__version__
    if int(version.split(".")[0]) < 3:
        return f"Triton 3.0 or later is needed, {version} is installed"
    return None


def scan_2d(
    x: Tensor,
    x_proj_weight: Tensor,
    dt_projs_weight: Tensor,
    dt_projs_bias: Tensor,
    A: Tensor,
    D: Tensor,
) -> Tensor:
    """Four-direction scan in the kernel form of :mod:`.backends`."""
    projection = x.flatten(0, 2) @ x_proj_weight.flatten(0, 1).t()
    y: Tensor = _Scan2d.apply(x, projection, dt_projs_weight, dt_projs_bias, A, D)  # type: ignore[no-untyped-call]
    return y


class _Scan2d(torch.autograd.Function):
    """``x`` ``(batch, H, W, E)``; ``projection`` ``(batch * H * W, 4 * (R + 2N))`` in raster order."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, projection: Tensor, weight: Tensor, bias: Tensor, A: Tensor, D: Tensor
    ) -> Tensor:
        kernels: Any = importlib.import_module(".triton_kernels", __package__)
        batch, height, width, channels = x.shape
        states, length = A.shape[1], height * width
        chunks = -(-length // _CHUNK)
        sizes = (length, height, width, channels, states, chunks)
        tile = {"R": weight.shape[2], "T": _CHUNK, "E_BLOCK": _CHANNEL_BLOCK}
        blocks = -(-channels // _CHANNEL_BLOCK)
        initial = x.new_empty(batch, 4, chunks, states, channels)
        sums = x.new_empty(batch, 4, chunks, channels)
        y = x.new_empty(2, *x.shape)
        grid = (chunks, blocks, 2 * batch)
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
            kernels.chunk_ends[grid](x, projection, weight, bias, A, initial, sums, *sizes, **tile)
            kernels.carry[(blocks, states, 4 * batch)](
                initial, sums, A, channels, states, chunks, ADJOINT=False, E_BLOCK=_CHANNEL_BLOCK
            )
            kernels.outputs[grid](x, projection, weight, bias, A, D, initial, y, *sizes, batch, **tile)
        ctx.save_for_backward(x, projection, weight, bias, A, D, initial, sums)
        return y[0] + y[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, ...]:
        kernels: Any = importlib.import_module(".triton_kernels", __package__)
        x, projection, weight, bias, A, D, initial, sums = ctx.saved_tensors
        grad_y = grad_y.contiguous()
        batch, height, width, channels = x.shape
        states, length, rank = A.shape[1], height * width, weight.shape[2]
        chunks = initial.shape[2]
        sizes = (length, height, width, channels, states, chunks)
        tile = {"R": rank, "T": _CHUNK, "E_BLOCK": _CHANNEL_BLOCK}
        blocks = -(-channels // _CHANNEL_BLOCK)
        grid = (chunks, blocks, 2 * batch)
        incoming = torch.empty_like(initial)
        grad_x = x.new_empty(2, *x.shape)
        grad_projection = x.new_empty(blocks, *projection.shape)
        grad_weight = x.new_empty(batch, 4, chunks, rank, channels)
        grad_bias, grad_D = torch.empty_like(sums), torch.empty_like(sums)
        grad_A = torch.empty_like(initial)
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
            kernels.adjoint_ends[grid](projection, weight, bias, A, grad_y, incoming, *sizes, **tile)
            kernels.carry[(blocks, states, 4 * batch)](
                incoming, sums, A, channels, states, chunks, ADJOINT=True, E_BLOCK=_CHANNEL_BLOCK
            )
            kernels.gradients[grid](
                x, projection, weight, bias, A, D, grad_y, initial, incoming,
                grad_x, grad_projection, grad_weight, grad_bias, grad_A, grad_D,
                *sizes, batch, **tile,
            )  # fmt: skip
        return (
            grad_x[0] + grad_x[1],
            grad_projection.sum(0),
            grad_weight.sum((0, 2)).transpose(1, 2),
            grad_bias.sum((0, 2)),
            grad_A.sum((0, 2)).transpose(1, 2).reshape(A.shape),
            grad_D.sum((0, 2)).flatten(),
        )
