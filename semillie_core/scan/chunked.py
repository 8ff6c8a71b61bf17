"""Selective scan in plain PyTorch, for every device and for float64.

The sequence is cut into chunks of about ``sqrt(L)`` steps and the chunks advance side by side, so a Python loop
of ``sqrt(L)`` iterations replaces one of ``L``:

1. every chunk runs from a zero state to its local end state;
2. the end states are carried across chunks with each chunk's total decay ``exp(A * sum(dt))``;
3. every chunk runs again from its true initial state and emits outputs.

Only products of ``exp(dt * A)`` are formed, never their inverses, so nothing overflows however long the sequence.
The backward pass stores the chunk-initial states alone, recomputes the others a block of channels at a time, and
runs the adjoint recurrence through the same three steps in reverse.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_BACKWARD_STATE_BYTES = 64 * 2**20
"""Upper bound on the recomputed states held at once in the backward pass (at least one channel is taken)."""


def unavailable_reason() -> str | None:
    """Plain PyTorch is always there."""
    return None


def scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor]:
    """One-dimensional scan in the kernel form of :mod:`.backends`."""
    batch, channels, length = u.shape
    groups, d_state = B.shape[1], B.shape[2]
    if delta_bias is not None:
        delta = delta + delta_bias.unsqueeze(-1)
    dt = F.softplus(delta) if delta_softplus else delta

    def grouped(t: Tensor) -> Tensor:
        return t.view(batch, groups, channels // groups, length).transpose(2, 3)

    y, last_state = _scan(
        grouped(u),
        grouped(dt),
        A.view(groups, channels // groups, d_state),
        B.transpose(2, 3),
        C.transpose(2, 3),
    )
    y = y.transpose(2, 3).reshape(batch, channels, length)
    if D is not None:
        y = y + D.unsqueeze(-1) * u
    return y, last_state.reshape(batch, channels, d_state)


def scan_2d(
    x: Tensor,
    x_proj_weight: Tensor,
    dt_projs_weight: Tensor,
    dt_projs_bias: Tensor,
    A: Tensor,
    D: Tensor,
) -> Tensor:
    """Four-direction scan in the kernel form of :mod:`.backends`."""
    batch, height, width, channels = x.shape
    rank, d_state = dt_projs_weight.shape[2], A.shape[1]
    rows = x.flatten(1, 2)
    columns = x.transpose(1, 2).flatten(1, 2)
    sequences = torch.stack([rows, columns, rows.flip(1), columns.flip(1)], dim=1)
    projected = sequences @ x_proj_weight.transpose(1, 2)
    dt_low, B, C = torch.split(projected, [rank, d_state, d_state], dim=-1)
    dt = F.softplus(dt_low @ dt_projs_weight.transpose(1, 2) + dt_projs_bias.unsqueeze(1))
    y, _ = _scan(sequences, dt, A.view(4, channels, d_state), B, C)
    y = y + D.view(4, 1, channels) * sequences
    by_row = y[:, 0] + y[:, 2].flip(1)
    by_column = (y[:, 1] + y[:, 3].flip(1)).view(batch, width, height, channels).transpose(1, 2)
    return by_row.view(batch, height, width, channels) + by_column


def _scan(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """Scan ``u``, ``dt`` ``(batch, G, L, P)`` with ``A`` ``(G, P, N)`` and ``B``, ``C`` ``(batch, G, L, N)``.

    Returns ``y`` ``(batch, G, L, P)`` and the last state ``(batch, G, P, N)``.
    """
    length = u.shape[2]
    steps = max(1, math.isqrt(max(length - 1, 0)) + 1)
    chunks = -(-length // steps)
    # A padded step has dt = 0: the state passes through it unchanged.
    pad = chunks * steps - length

    def to_chunks(t: Tensor) -> Tensor:
        batch, groups, _, last = t.shape
        padded = F.pad(t, (0, 0, 0, pad))
        return padded.view(batch, groups, chunks, steps, last).permute(3, 0, 2, 1, 4).contiguous()

    y, last_state = _ChunkedScan.apply(  # type: ignore[no-untyped-call]
        to_chunks(u), to_chunks(dt), A, to_chunks(B), to_chunks(C)
    )
    batch, groups, channels = u.shape[0], u.shape[1], u.shape[3]
    y = y.permute(1, 3, 2, 0, 4).reshape(batch, groups, chunks * steps, channels)
    return y[:, :, :length], last_state


def _carry(local: Tensor, decay: Tensor, first: Tensor, *, reverse: bool) -> tuple[Tensor, Tensor]:
    """Initial value of every chunk from the chunks' local results.

    Args:
        local: What each chunk adds, ``(batch, chunks, G, P, N)``.
        decay: What each chunk keeps of its initial value, same shape.
        first: Initial value of the chunk visited first, ``(batch, G, P, N)``.
        reverse: Visit the chunks from last to first.

    Returns:
        The initial values, shaped like ``local``, and the value that leaves the chunk visited last.
    """
    initial = torch.empty_like(local)
    chunks = range(local.shape[1])
    value = first
    for c in reversed(chunks) if reverse else chunks:
        initial[:, c] = value
        value = decay[:, c] * value + local[:, c]
    return initial, value


class _ChunkedScan(torch.autograd.Function):
    """Time-major chunks: ``u``, ``dt`` ``(T, batch, chunks, G, P)``; ``B``, ``C`` ``(T, batch, chunks, G, N)``."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
        steps, batch, chunks, groups, channels = u.shape
        weighted = dt * u
        state = u.new_zeros(batch, chunks, groups, channels, A.shape[-1])
        factor = torch.empty_like(state)
        for t in range(steps):
            _decay(dt[t], A, out=factor)
            state.mul_(factor).addcmul_(weighted[t].unsqueeze(-1), B[t].unsqueeze(-2))
        total = torch.exp(dt.sum(0).unsqueeze(-1) * A)
        initial, last_state = _carry(state, total, state.new_zeros(state[:, 0].shape), reverse=False)

        y = torch.empty_like(u)
        state.copy_(initial)
        for t in range(steps):
            _decay(dt[t], A, out=factor)
            state.mul_(factor).addcmul_(weighted[t].unsqueeze(-1), B[t].unsqueeze(-2))
            torch.matmul(state, C[t].unsqueeze(-1), out=y[t].unsqueeze(-1))
        ctx.save_for_backward(u, dt, A, B, C, initial)
        return y, last_state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_last: Tensor) -> tuple[Tensor, ...]:
        u, dt, A, B, C, initial = ctx.saved_tensors
        steps, batch, chunks, groups, channels = u.shape
        grad_u, grad_dt, grad_A = torch.empty_like(u), torch.empty_like(dt), torch.empty_like(A)
        grad_B, grad_C = torch.zeros_like(B), torch.zeros_like(C)

        per_channel = steps * batch * chunks * groups * A.shape[-1] * u.element_size()
        block = max(1, min(channels, _BACKWARD_STATE_BYTES // max(per_channel, 1)))
        for start in range(0, channels, block):
            part = slice(start, start + block)
            _backward_block(
                u[..., part],
                dt[..., part],
                A[:, part],
                B,
                C,
                initial[..., part, :],
                grad_y[..., part],
                grad_last[..., part, :],
                grad_u[..., part],
                grad_dt[..., part],
                grad_A[:, part],
                grad_B,
                grad_C,
            )
        return grad_u, grad_dt, grad_A, grad_B, grad_C


def _decay(dt: Tensor, A: Tensor, out: Tensor) -> Tensor:
    return torch.mul(dt.unsqueeze(-1), A, out=out).exp_()


def _backward_block(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    initial: Tensor,
    grad_y: Tensor,
    grad_last: Tensor,
    grad_u: Tensor,
    grad_dt: Tensor,
    grad_A: Tensor,
    grad_B: Tensor,
    grad_C: Tensor,
) -> None:
    """Gradients of one block of channels; writes into ``grad_u``, ``grad_dt``, ``grad_A``, adds into the others."""
    steps = u.shape[0]
    weighted = dt * u
    states = initial.new_empty(steps, *initial.shape)
    factor = torch.empty_like(initial)
    previous = initial
    for t in range(steps):
        _decay(dt[t], A, out=factor)
        torch.mul(previous, factor, out=states[t])
        previous = states[t].addcmul_(weighted[t].unsqueeze(-1), B[t].unsqueeze(-2))
        grad_C[t] += torch.matmul(grad_y[t].unsqueeze(-2), states[t]).squeeze(-2)

    # The adjoint state dL/dh_t obeys g_t = C_t * grad_y_t + exp(dt_{t+1} A) * g_{t+1}.
    incoming = torch.zeros_like(initial)
    for t in reversed(range(steps)):
        incoming.addcmul_(grad_y[t].unsqueeze(-1), C[t].unsqueeze(-2)).mul_(_decay(dt[t], A, out=factor))
    total = torch.exp(dt.sum(0).unsqueeze(-1) * A)
    incoming, _ = _carry(incoming, total, grad_last, reverse=True)

    grad_A.zero_()
    for t in reversed(range(steps)):
        _decay(dt[t], A, out=factor)
        adjoint = incoming.addcmul_(grad_y[t].unsqueeze(-1), C[t].unsqueeze(-2))
        grad_B[t] += torch.matmul(weighted[t].unsqueeze(-2), adjoint).squeeze(-2)
        grad_weighted = torch.matmul(adjoint, B[t].unsqueeze(-1)).squeeze(-1)
        grad_u[t] = grad_weighted * dt[t]
        incoming = adjoint.mul_(factor)
        exponent = incoming * (states[t - 1] if t else initial)
        grad_A += (exponent * dt[t].unsqueeze(-1)).sum((0, 1))
        grad_dt[t] = (exponent * A).sum(-1).addcmul_(grad_weighted, u[t])
