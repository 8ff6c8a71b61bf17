"""Selective scan on NVIDIA and AMD GPUs through Triton (float32), four directions at once.

Chunks of the sequences run in parallel, so a single image fills a GPU; see :mod:`.triton_kernels`.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

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


def scan_2d_forward(
    x: Tensor,
    x_proj_weight: Tensor,
    dt_projs_weight: Tensor,
    dt_projs_bias: Tensor,
    A: Tensor,
    D: Tensor,
    keep: bool,
) -> tuple[Tensor, list[Tensor]]:
    """``scan_2d`` in the kernel form of :mod:`.backends`."""
    kernels: Any = importlib.import_module(".triton_kernels", __package__)
    projection = x.flatten(0, 2) @ x_proj_weight.flatten(0, 1).t()
    weights = (dt_projs_weight, dt_projs_bias, A)
    batch, channels, states = x.shape[0], x.shape[3], A.shape[1]
    grid, sizes, tile = _launch(x, dt_projs_weight, A)
    initial, sums = (x.new_empty(shape) for shape in scan_2d_saved(x.shape, states, tile["R"])[1:])
    y = x.new_empty(2, *x.shape)
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        kernels.chunk_ends[grid](x, projection, *weights, initial, sums, *sizes, **tile)
        kernels.carry[(grid[1], states, 4 * batch)](
            initial, sums, A, channels, states, grid[0], ADJOINT=False, E_BLOCK=_CHANNEL_BLOCK
        )
        kernels.outputs[grid](x, projection, *weights, D, initial, y, *sizes, batch, **tile)
    return y[0] + y[1], [projection, initial, sums] if keep else []


def scan_2d_backward(
    grad_y: Tensor,
    x: Tensor,
    x_proj_weight: Tensor,
    dt_projs_weight: Tensor,
    dt_projs_bias: Tensor,
    A: Tensor,
    D: Tensor,
    saved: list[Tensor],
) -> tuple[Tensor, ...]:
    """Gradients of ``scan_2d``."""
    kernels: Any = importlib.import_module(".triton_kernels", __package__)
    projection, initial, sums = saved
    weights = (dt_projs_weight, dt_projs_bias, A)
    batch, channels, states = x.shape[0], x.shape[3], A.shape[1]
    grid, sizes, tile = _launch(x, dt_projs_weight, A)
    chunks, blocks = grid[:2]
    incoming = torch.empty_like(initial)
    grad_x = x.new_empty(2, *x.shape)
    grad_projection = x.new_empty(blocks, *projection.shape)
    grad_weight = x.new_empty(batch, 4, chunks, tile["R"], channels)
    grad_bias, grad_D = torch.empty_like(sums), torch.empty_like(sums)
    grad_A = torch.empty_like(initial)
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        kernels.adjoint_ends[grid](projection, *weights, grad_y, incoming, *sizes, **tile)
        kernels.carry[(blocks, states, 4 * batch)](
            incoming, sums, A, channels, states, chunks, ADJOINT=True, E_BLOCK=_CHANNEL_BLOCK
        )
        kernels.gradients[grid](
            x, projection, *weights, D, grad_y, initial, incoming,
            grad_x, grad_projection, grad_weight, grad_bias, grad_A, grad_D,
            *sizes, batch, **tile,
        )  # fmt: skip
    grad_rows = grad_projection.sum(0)
    grad_sum = grad_x[0] + grad_x[1]
    grad_sum.flatten(0, 2).addmm_(grad_rows, x_proj_weight.flatten(0, 1))
    return (
        grad_sum,
        (grad_rows.t() @ x.flatten(0, 2)).view_as(x_proj_weight),
        grad_weight.sum((0, 2)).transpose(1, 2).contiguous(),
        grad_bias.sum((0, 2)),
        grad_A.sum((0, 2)).transpose(1, 2).reshape(A.shape),
        grad_D.sum((0, 2)).flatten(),
    )


def scan_2d_saved(shape: Sequence[int], states: int, rank: int) -> list[tuple[int, ...]]:
    """Shapes of the projection, of the states before each chunk and of each chunk's total step size."""
    batch, height, width, channels = shape
    tokens = height * width
    chunks = -(-tokens // _CHUNK)
    return [
        (batch * tokens, 4 * (rank + 2 * states)),
        (batch, 4, chunks, states, channels),
        (batch, 4, chunks, channels),
    ]


def _launch(
    x: Tensor, weight: Tensor, A: Tensor
) -> tuple[tuple[int, int, int], tuple[int, ...], dict[str, int]]:
    """Grid (chunks, channel blocks, 2 pairs of directions per image), sizes and constants of the kernels."""
    batch, height, width, channels = x.shape
    length = height * width
    chunks = -(-length // _CHUNK)
    sizes = (length, height, width, channels, A.shape[1], chunks)
    tile = {"R": weight.shape[2], "T": _CHUNK, "E_BLOCK": _CHANNEL_BLOCK}
    return (chunks, -(-channels // _CHANNEL_BLOCK), 2 * batch), sizes, tile
