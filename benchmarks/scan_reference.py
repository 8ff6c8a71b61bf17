"""The four-direction scan written plainly, one Python step per token: the baselines of ``benchmarks.scan_cpu``.

Both take the arguments of ``semillie_core.scan.selective_scan_2d`` and follow the released network (Semi-LLIE, arXiv
2409.16604): four flattened copies of the image as ``(batch, 4, E, L)``, a projection of each, the recurrence over
``4E`` channels at once (Mamba, arXiv 2312.00752, section 3), and the four outputs put back and summed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

Recurrence = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def released_scan_2d(*inputs: Tensor) -> Tensor:
    """As released, where the compiled kernel is missing: every factor of every step is formed beforehand."""
    return _scan_2d(_everything_first, *inputs)


def loop_scan_2d(*inputs: Tensor) -> Tensor:
    """A leaner loop: each step forms what it needs. The fastest of the loops that were tried."""
    return _scan_2d(_step_by_step, *inputs)


def _everything_first(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    repeat = u.shape[1] // B.shape[1]
    decay = torch.exp(torch.einsum("bdl,dn->bdln", dt, A))
    B, C = B.repeat_interleave(repeat, 1), C.repeat_interleave(repeat, 1)
    added = torch.einsum("bdl,bdnl,bdl->bdln", dt, B, u)
    state = torch.zeros_like(decay[:, :, 0])
    outputs = []
    for decay_t, added_t, C_t in _steps(decay, added, C.transpose(2, 3)):
        state = decay_t * state + added_t
        outputs.append(torch.einsum("bdn,bdn->bd", state, C_t))
    return torch.stack(outputs, dim=2)


def _step_by_step(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    batch, groups, states, _ = B.shape
    state = u.new_zeros(batch, groups, u.shape[1] // groups, states)
    outputs = []
    for dt_t, added_t, B_t, C_t in _steps(dt, dt * u, B.transpose(2, 3), C.transpose(2, 3)):
        decay = torch.exp(dt_t[..., None] * A).view_as(state)
        state = decay * state + added_t.view(batch, groups, -1, 1) * B_t[:, :, None]
        outputs.append((state * C_t[:, :, None]).sum(-1))
    return torch.stack(outputs, dim=-1).view_as(u)


def _steps(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Slices along the third axis; unlike indexing step by step, their gradients are gathered once at the end."""
    return zip(*(t.unbind(2) for t in tensors), strict=True)


def _scan_2d(
    recurrence: Recurrence,
    x: Tensor,
    x_proj: Tensor,
    dt_proj: Tensor,
    dt_bias: Tensor,
    A_logs: Tensor,
    Ds: Tensor,
) -> Tensor:
    batch, height, width, channels = x.shape
    rank, states, length = dt_proj.shape[2], A_logs.shape[1], height * width
    image = x.permute(0, 3, 1, 2)
    rows, columns = image.flatten(2), image.transpose(2, 3).flatten(2)
    sequences = torch.stack([rows, columns, rows.flip(2), columns.flip(2)], dim=1)
    low, B, C = torch.einsum("bkel,kce->bkcl", sequences, x_proj).split([rank, states, states], dim=2)
    dt = torch.einsum("bkrl,ker->bkel", low, dt_proj)
    dt = F.softplus(dt + dt_bias[..., None]).reshape(batch, -1, length)
    u = sequences.reshape(batch, -1, length)
    y = recurrence(u, dt, -torch.exp(A_logs), B, C)
    y = (y + Ds[:, None] * u).view_as(sequences)
    by_row = y[:, 0] + y[:, 2].flip(2)
    by_column = (y[:, 1] + y[:, 3].flip(2)).view(batch, channels, width, height).transpose(2, 3)
    return (by_row.view_as(image) + by_column).permute(0, 2, 3, 1)
