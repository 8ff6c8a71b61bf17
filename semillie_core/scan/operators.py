"""The scan as PyTorch operators: ``semillie::selective_scan`` and ``semillie::selective_scan_2d``.

One operator per form, whatever the backend, so that ``torch.compile``, ``torch.export`` and their like see a single
node with known shapes and a gradient instead of a backend's loops, threads or kernels. What a backend keeps from the
forward pass for the backward one is an output of the operator, as the tracers require.

``backend`` is a name. While a graph is traced it may be empty: the choice, which looks at the machine and its
environment, is then made inside the operator, where tracers do not follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .backends import resolve_backend

_WEIGHTS_2D = (
    "Tensor x, Tensor x_proj_weight, Tensor dt_projs_weight, Tensor dt_projs_bias, Tensor A, Tensor D"
)
_INPUTS_1D = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? delta_bias, bool delta_softplus"
)


def run_scan_2d(*inputs: Tensor, backend: str | None) -> Tensor:
    """``scan_2d``, differentiable; arguments in the kernel form of :mod:`.backends`, backend by name or the best."""
    y: Tensor = scan_2d(*inputs, _choose(inputs[0], "scan_2d", backend), _grad_needed(inputs))[0]
    return y


def run_scan(*inputs: Any, backend: str | None) -> tuple[Tensor, Tensor]:
    """``scan``, differentiable; arguments in the kernel form of :mod:`.backends`, backend by name or the best."""
    y, last_state, _ = scan(*inputs, _choose(inputs[0], "scan", backend), _grad_needed(inputs))
    return y, last_state


def _choose(first: Tensor, form: str, name: str | None) -> str:
    if torch.compiler.is_compiling():
        return name or ""
    return resolve_backend(first.device, first.dtype, form=form, name=name).name


def _module(first: Tensor, form: str, name: str) -> Any:
    return resolve_backend(first.device, first.dtype, form=form, name=name or None).load()


def _grad_needed(inputs: Sequence[Any]) -> bool:
    return torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in inputs)


def _empty(like: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    return [like.new_empty(shape) for shape in shapes]


@torch.library.custom_op(
    "semillie::selective_scan_2d",
    mutates_args=(),
    schema=f"({_WEIGHTS_2D}, str backend, bool keep) -> (Tensor, Tensor[])",
)
def scan_2d(*args: Any) -> tuple[Tensor, list[Tensor]]:
    """Forward pass; with ``keep`` also what the backward pass needs."""
    *inputs, backend, keep = args
    result: tuple[Tensor, list[Tensor]] = _module(inputs[0], "scan_2d", backend).scan_2d_forward(
        *inputs, keep
    )
    return result


@torch.library.custom_op(
    "semillie::selective_scan_2d_backward",
    mutates_args=(),
    schema=f"(Tensor grad_y, {_WEIGHTS_2D}, Tensor[] saved, str backend) -> Tensor[]",
)
def scan_2d_backward(*args: Any) -> list[Tensor]:
    """Gradients of the six inputs."""
    *inputs, saved, backend = args
    return list(_module(inputs[0], "scan_2d", backend).scan_2d_backward(*inputs, saved))


@scan_2d.register_fake
def _(*args: Any) -> tuple[Tensor, list[Tensor]]:
    x, _, dt_projs_weight, _, A, _, backend, keep = args
    shapes = _module(x, "scan_2d", backend).scan_2d_saved(x.shape, A.shape[1], dt_projs_weight.shape[2])
    return torch.empty_like(x), _empty(x, shapes if keep else [])


@scan_2d_backward.register_fake
def _(*args: Any) -> list[Tensor]:
    return [torch.empty_like(t) for t in args[1:7]]


def _keep_2d(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, list[Tensor]]) -> None:
    ctx.save_for_backward(*inputs[:6], *output[1])
    ctx.backend = inputs[6]
    # What is kept has no gradient, and zeros in its place would take a twentieth of the time.
    ctx.set_materialize_grads(False)


def _gradients_2d(ctx: Any, grad_y: Tensor | None, grad_saved: list[Tensor]) -> tuple[Tensor | None, ...]:
    if grad_y is None:
        return (None,) * len(ctx.needs_input_grad)
    # Once: activation checkpointing recomputes them at this access, and allows no second.
    tensors = ctx.saved_tensors
    grads = scan_2d_backward(grad_y.contiguous(), *tensors[:6], list(tensors[6:]), ctx.backend)
    return (*grads, None, None)


scan_2d.register_autograd(_gradients_2d, setup_context=_keep_2d)


@torch.library.custom_op(
    "semillie::selective_scan",
    mutates_args=(),
    schema=f"({_INPUTS_1D}, str backend, bool keep) -> (Tensor, Tensor, Tensor[])",
)
def scan(*args: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Forward pass and last state; with ``keep`` also what the backward pass needs."""
    *inputs, backend, keep = args
    result: tuple[Tensor, Tensor, list[Tensor]] = _module(inputs[0], "scan", backend).scan_forward(
        *inputs, keep
    )
    return result


@torch.library.custom_op(
    "semillie::selective_scan_backward",
    mutates_args=(),
    schema=f"(Tensor grad_y, Tensor grad_last_state, {_INPUTS_1D}, Tensor[] saved, str backend) -> Tensor[]",
)
def scan_backward(*args: Any) -> list[Tensor]:
    """Gradients of the inputs that are tensors."""
    *inputs, saved, backend = args
    gradients = _module(inputs[0], "scan", backend).scan_backward(*inputs, saved)
    return [grad for grad in gradients if grad is not None]


@scan.register_fake
def _(*args: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
    u, _, A, B, *_, backend, keep = args
    shapes = _module(u, "scan", backend).scan_saved(u.shape, B.shape[1], A.shape[1])
    last_state = u.new_empty(u.shape[0], *A.shape)
    return torch.empty_like(u), last_state, _empty(u, shapes if keep else [])


@scan_backward.register_fake
def _(*args: Any) -> list[Tensor]:
    return [torch.empty_like(t) for t in args[2:9] if t is not None]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, list[Tensor]]) -> None:
    ctx.save_for_backward(*inputs[:7], *output[2])
    ctx.delta_softplus, ctx.backend = inputs[7], inputs[8]
    ctx.set_materialize_grads(False)


def _gradients(
    ctx: Any, grad_y: Tensor | None, grad_last_state: Tensor | None, grad_saved: list[Tensor]
) -> tuple[Tensor | None, ...]:
    if grad_y is None and grad_last_state is None:
        return (None,) * len(ctx.needs_input_grad)
    tensors = ctx.saved_tensors
    inputs, saved = tensors[:7], list(tensors[7:])
    u, A = inputs[0], inputs[2]
    found = iter(
        scan_backward(
            torch.zeros_like(u) if grad_y is None else grad_y.contiguous(),
            A.new_zeros(u.shape[0], *A.shape) if grad_last_state is None else grad_last_state.contiguous(),
            *inputs,
            ctx.delta_softplus,
            saved,
            ctx.backend,
        )
    )
    return (*(None if t is None else next(found) for t in inputs), None, None, None)


scan.register_autograd(_gradients, setup_context=_keep)
