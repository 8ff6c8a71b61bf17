"""Selective scan through the kernel of the package ``mamba-ssm`` (NVIDIA GPUs, float32).

The kernel scans one materialised sequence per channel, so the four directions of an image are four copies; the
Triton backend needs none. The backward pass runs the kernel's forward pass again, because what the kernel keeps for it
is private to the package. There is no one-dimensional form: the kernel's last state has no gradient.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import sequences


def unavailable_reason() -> str | None:
    """Why the kernel cannot be used, or ``None``."""
    if not torch.cuda.is_available() or torch.version.hip is not None:
        return "PyTorch sees no NVIDIA GPU"
    try:
        # The package installs without its kernel, and the kernel loads only with the torch it was built for.
        importlib.import_module("selective_scan_cuda")
        _selective_scan_fn()
    except ModuleNotFoundError as error:
        return f"the package mamba-ssm is not complete: no module named {error.name!r}"
    except (ImportError, OSError, AttributeError) as error:
        return f"the kernel of mamba-ssm does not load ({error}); build mamba-ssm again for this version of torch"
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
    u = sequences.split(x)
    _, delta, B, C = sequences.project(u, x_proj_weight, dt_projs_weight, A.shape[1])
    y = _kernel(*_arguments(u, delta, A, B, C, D, dt_projs_bias))
    return sequences.merge(_token_major(y), *x.shape[1:3]), []


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
    u = sequences.split(x)
    low, delta, B, C = sequences.project(u, x_proj_weight, dt_projs_weight, A.shape[1])
    arguments = _arguments(u, delta, A, B, C, D, dt_projs_bias)
    # The package's autograd.Function records itself even here, where the operators around it are not recorded.
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_() for t in arguments]
        y = _kernel(*leaves)
    grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_bias = torch.autograd.grad(
        y, leaves, _channel_major(sequences.split(grad_y))
    )
    grad_sequences, grad_x_proj, grad_weight = sequences.project_backward(
        _token_major(grad_delta),
        grad_B.transpose(2, 3),
        grad_C.transpose(2, 3),
        u,
        low,
        x_proj_weight,
        dt_projs_weight,
    )
    grad_x = sequences.merge(grad_sequences + _token_major(grad_u), *x.shape[1:3])
    return grad_x, grad_x_proj, grad_weight, grad_bias.view_as(dt_projs_bias), grad_A, grad_D


def scan_2d_saved(shape: Sequence[int], states: int, rank: int) -> list[tuple[int, ...]]:
    """Nothing is kept."""
    return []


def _selective_scan_fn() -> Any:
    return importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn


def _kernel(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor
) -> Tensor:
    y: Tensor = _selective_scan_fn()(u, delta, A, B, C, D, delta_bias=delta_bias, delta_softplus=True)
    return y


def _arguments(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor
) -> list[Tensor]:
    """From ``(batch, 4, L, last)`` to the kernel's layout: channels of all directions, four groups, time last."""
    B, C = (t.transpose(2, 3).contiguous() for t in (B, C))
    return [_channel_major(u), _channel_major(delta), A, B, C, D, bias.flatten()]


def _channel_major(t: Tensor) -> Tensor:
    """``(batch, 4, L, E)`` to ``(batch, 4E, L)``."""
    return t.transpose(2, 3).flatten(1, 2).contiguous()


def _token_major(t: Tensor) -> Tensor:
    """The way back from :func:`_channel_major`."""
    return t.view(t.shape[0], 4, -1, t.shape[2]).transpose(2, 3)
