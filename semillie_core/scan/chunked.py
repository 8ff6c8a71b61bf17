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
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from . import sequences

_BACKWARD_STATE_BYTES = 64 * 2**20
"""Upper bound on the recomputed states held at once in the backward pass (at least one channel is taken)."""


def unavailable_reason() -> str | None:
    """Plain PyTorch is always there."""
    return None


def scan_forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """``scan`` in the kernel form of :mod:`.backends`."""
    groups = B.shape[1]
    chunks = _Chunks(u.shape[0], u.shape[2])
    _, dt = sequences.steps(delta, delta_bias, delta_softplus)
    y, last_state, initial = _forward(
        chunks,
        chunks.cut(_time_major(u, groups)),
        chunks.cut(_time_major(dt, groups)),
        A.view(groups, -1, A.shape[1]),
        chunks.cut(B.transpose(2, 3)),
        chunks.cut(C.transpose(2, 3)),
    )
    y = chunks.join(y).transpose(2, 3).reshape(u.shape)
    if D is not None:
        y.addcmul_(D.unsqueeze(-1), u)
    return y, last_state.flatten(1, 2), [initial] if keep else []


def scan_backward(
    grad_y: Tensor,
    grad_last: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    saved: list[Tensor],
) -> tuple[Tensor | None, ...]:
    """Gradients of ``scan``."""
    groups, per_group = B.shape[1], (B.shape[1], -1, A.shape[1])
    chunks = _Chunks(u.shape[0], u.shape[2])
    raw, dt = sequences.steps(delta, delta_bias, delta_softplus)
    found = _backward(
        chunks,
        chunks.cut(_time_major(grad_y, groups)),
        grad_last.view(u.shape[0], *per_group),
        chunks.cut(_time_major(u, groups)),
        chunks.cut(_time_major(dt, groups)),
        A.view(per_group),
        chunks.cut(B.transpose(2, 3)),
        chunks.cut(C.transpose(2, 3)),
        saved[0],
    )
    grad_u, grad_dt = (chunks.join(t).transpose(2, 3).reshape(u.shape) for t in found[:2])
    grad_B, grad_C = (chunks.join(t).transpose(2, 3).contiguous() for t in found[3:])
    grad_raw = sequences.softplus_backward(grad_dt, raw) if delta_softplus else grad_dt
    grad_D = None
    if D is not None:
        grad_u.addcmul_(D.unsqueeze(-1), grad_y)
        grad_D = (grad_y * u).sum((0, 2))
    grad_bias = None if delta_bias is None else grad_raw.sum((0, 2))
    return grad_u, grad_raw, found[2].view(A.shape), grad_B, grad_C, grad_D, grad_bias


def scan_saved(shape: Sequence[int], groups: int, states: int) -> list[tuple[int, ...]]:
    """Shape of the states before each chunk."""
    batch, channels, length = shape
    return [(groups, batch * _Chunks(batch, length).count, channels // groups, states)]


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
    batch, height, width, channels = x.shape
    chunks = _Chunks(batch, height * width)
    u = sequences.split(x)
    _, dt, B, C = sequences.project(u, x_proj_weight, dt_projs_weight, A.shape[1])
    dt = F.softplus(dt + dt_projs_bias.unsqueeze(1))
    y, _, initial = _forward(
        chunks, chunks.cut(u), chunks.cut(dt), A.view(4, channels, -1), chunks.cut(B), chunks.cut(C)
    )
    y = torch.addcmul(chunks.join(y), D.view(4, 1, channels), u)
    return sequences.merge(y, height, width), [initial] if keep else []


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
    batch, height, width, channels = x.shape
    states = A.shape[1]
    chunks = _Chunks(batch, height * width)
    u, grad = sequences.split(x), sequences.split(grad_y)
    low, raw, B, C = sequences.project(u, x_proj_weight, dt_projs_weight, states)
    raw = raw + dt_projs_bias.unsqueeze(1)
    found = _backward(
        chunks,
        chunks.cut(grad),
        grad.new_zeros(batch, 4, channels, states),
        chunks.cut(u),
        chunks.cut(F.softplus(raw)),
        A.view(4, channels, states),
        chunks.cut(B),
        chunks.cut(C),
        saved[0],
    )
    grad_u, grad_dt, grad_B, grad_C = (chunks.join(found[i]) for i in (0, 1, 3, 4))
    grad_raw = sequences.softplus_backward(grad_dt, raw)
    grad_sequences, grad_x_proj, grad_weight = sequences.project_backward(
        grad_raw, grad_B, grad_C, u, low, x_proj_weight, dt_projs_weight
    )
    grad_sequences += grad_u
    grad_sequences.addcmul_(D.view(4, 1, channels), grad)
    return (
        sequences.merge(grad_sequences, height, width),
        grad_x_proj,
        grad_weight,
        grad_raw.sum((0, 2)),
        found[2].view(A.shape),
        (grad * u).sum((0, 2)).flatten(),
    )


def scan_2d_saved(shape: Sequence[int], states: int, rank: int) -> list[tuple[int, ...]]:
    """Shape of the states before each chunk."""
    batch, height, width, channels = shape
    return [(4, batch * _Chunks(batch, height * width).count, channels, states)]


def _time_major(t: Tensor, groups: int) -> Tensor:
    """``(batch, channels, L)`` to ``(batch, G, L, P)``."""
    return t.view(t.shape[0], groups, -1, t.shape[2]).transpose(2, 3)


class _Chunks:
    """How sequences ``(batch, G, L, last)`` are cut into chunks ``(G, steps, batch * chunks, last)``."""

    def __init__(self, batch: int, length: int) -> None:
        self.batch, self.length = batch, length
        self.steps = max(1, math.isqrt(max(length - 1, 0)) + 1)
        self.count = -(-length // self.steps)

    def cut(self, t: Tensor) -> Tensor:
        """Contiguous chunks; a padded step has dt = 0, so the state passes through it unchanged."""
        batch, groups, _, last = t.shape
        padded = F.pad(t, (0, 0, 0, self.count * self.steps - self.length))
        cut = padded.view(batch, groups, self.count, self.steps, last).permute(1, 3, 0, 2, 4)
        return cut.reshape(groups, self.steps, batch * self.count, last)

    def join(self, t: Tensor) -> Tensor:
        """The way back from :meth:`cut`."""
        groups, _, _, last = t.shape
        joined = t.view(groups, self.steps, self.batch, self.count, last).permute(2, 0, 3, 1, 4)
        return joined.reshape(self.batch, groups, -1, last)[:, :, : self.length]


def _forward(
    chunks: _Chunks, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs like ``u``, last state ``(batch, G, P, N)`` and the state before each chunk ``(G, M, P, N)``.

    ``u``, ``dt`` ``(G, steps, M, P)``, ``A`` ``(G, P, N)``, ``B``, ``C`` ``(G, steps, M, N)``; M is batch * chunks.
    One group after the other: the states of all would displace each other from the cache.
    """
    groups, steps, many, channels = u.shape
    y = torch.empty_like(u)
    initial = u.new_empty(groups, many, channels, A.shape[-1])
    last_state = u.new_empty(chunks.batch, groups, channels, A.shape[-1])
    state, factor = torch.empty_like(initial[0]), torch.empty_like(initial[0])
    weighted = dt * u
    for g in range(groups):
        state.zero_()
        for t in range(steps):
            _decay(dt[g, t], A[g], out=factor)
            state.mul_(factor).addcmul_(weighted[g, t].unsqueeze(-1), B[g, t].unsqueeze(-2))
        torch.mul(dt[g].sum(0).unsqueeze(-1), A[g], out=factor).exp_()
        last_state[:, g] = _carry(chunks, state, factor, None, initial[g], reverse=False)
        state.copy_(initial[g])
        for t in range(steps):
            _decay(dt[g, t], A[g], out=factor)
            state.mul_(factor).addcmul_(weighted[g, t].unsqueeze(-1), B[g, t].unsqueeze(-2))
            torch.matmul(state, C[g, t].unsqueeze(-1), out=y[g, t].unsqueeze(-1))
    return y, last_state, initial


def _carry(
    chunks: _Chunks, local: Tensor, decay: Tensor, first: Tensor | None, out: Tensor, *, reverse: bool
) -> Tensor:
    """Write the value before every chunk, from the chunks' local results, to ``out``.

    Args:
        chunks: Which chunks belong together.
        local: What each chunk adds, ``(batch * chunks, P, N)``.
        decay: What each chunk keeps of the value before it, same shape.
        first: Value before the chunk visited first, ``(batch, P, N)``; zero if ``None``.
        out: Same shape as ``local``.
        reverse: Visit the chunks from last to first.

    Returns:
        The value that leaves the chunk visited last.
    """
    local, decay, out = (t.view(chunks.batch, chunks.count, *t.shape[1:]) for t in (local, decay, out))
    value = torch.zeros_like(local[:, 0]) if first is None else first
    for c in reversed(range(chunks.count)) if reverse else range(chunks.count):
        out[:, c] = value
        value = torch.addcmul(local[:, c], decay[:, c], value)
    return value


def _decay(dt: Tensor, A: Tensor, out: Tensor) -> Tensor:
    return torch.mul(dt.unsqueeze(-1), A, out=out).exp_()


def _backward(
    chunks: _Chunks,
    grad_y: Tensor,
    grad_last: Tensor,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    initial: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of ``u``, ``dt``, ``A``, ``B``, ``C``; shapes as in :func:`_forward`."""
    groups, steps, many, channels = u.shape
    grad_u, grad_dt, grad_A = torch.empty_like(u), torch.empty_like(dt), torch.empty_like(A)
    grad_B, grad_C = torch.zeros_like(B), torch.zeros_like(C)
    per_channel = steps * many * A.shape[-1] * u.element_size()
    block = max(1, min(channels, _BACKWARD_STATE_BYTES // max(per_channel, 1)))
    for g in range(groups):
        for start in range(0, channels, block):
            part = slice(start, start + block)
            _backward_block(
                chunks,
                grad_y[g, ..., part],
                grad_last[:, g, part],
                u[g, ..., part],
                dt[g, ..., part],
                A[g, part],
                B[g],
                C[g],
                initial[g, :, part],
                grad_u[g, ..., part],
                grad_dt[g, ..., part],
                grad_A[g, part],
                grad_B[g],
                grad_C[g],
            )
    return grad_u, grad_dt, grad_A, grad_B, grad_C


def _backward_block(
    chunks: _Chunks,
    grad_y: Tensor,
    grad_last: Tensor,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    initial: Tensor,
    grad_u: Tensor,
    grad_dt: Tensor,
    grad_A: Tensor,
    grad_B: Tensor,
    grad_C: Tensor,
) -> None:
    """Gradients of a block of channels of a group; writes ``grad_u``, ``grad_dt``, ``grad_A``, adds to the others."""
    steps = u.shape[0]
    weighted = dt * u
    states = initial.new_empty(steps, *initial.shape)
    factor = torch.empty_like(states[0])
    previous = initial
    for t in range(steps):
        _decay(dt[t], A, out=factor)
        torch.mul(previous, factor, out=states[t])
        previous = states[t].addcmul_(weighted[t].unsqueeze(-1), B[t].unsqueeze(-2))
        grad_C[t] += torch.matmul(grad_y[t].unsqueeze(-2), states[t]).squeeze(-2)

    # The adjoint state dL/dh_t obeys g_t = C_t * grad_y_t + exp(dt_{t+1} A) * g_{t+1}.
    local = torch.zeros_like(factor)
    for t in reversed(range(steps)):
        local.addcmul_(grad_y[t].unsqueeze(-1), C[t].unsqueeze(-2)).mul_(_decay(dt[t], A, out=factor))
    torch.mul(dt.sum(0).unsqueeze(-1), A, out=factor).exp_()
    incoming = torch.empty_like(local)
    _carry(chunks, local, factor, grad_last, incoming, reverse=True)

    grad_A.zero_()
    for t in reversed(range(steps)):
        _decay(dt[t], A, out=factor)
        adjoint = incoming.addcmul_(grad_y[t].unsqueeze(-1), C[t].unsqueeze(-2))
        grad_B[t] += torch.matmul(weighted[t].unsqueeze(-2), adjoint).squeeze(-2)
        grad_weighted = torch.matmul(adjoint, B[t].unsqueeze(-1)).squeeze(-1)
        grad_u[t] = grad_weighted * dt[t]
        incoming = adjoint.mul_(factor)
        exponent = incoming * (states[t - 1] if t else initial)
        grad_A += (exponent * dt[t].unsqueeze(-1)).sum(0)
        grad_dt[t] = (exponent * A).sum(-1).addcmul_(grad_weighted, u[t])
