"""The four-direction scan around a one-dimensional one: four sequences, their projections, and the way back.

For backends that scan materialised sequences. Each step has its gradient beside it, because a backend runs below
autograd (see :mod:`.operators`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def split(image: Tensor) -> Tensor:
    """``(batch, H, W, E)`` to ``(batch, 4, L, E)``: row-major, column-major, and the reverse of each."""
    rows = image.flatten(1, 2)
    columns = image.transpose(1, 2).flatten(1, 2)
    return torch.stack([rows, columns, rows.flip(1), columns.flip(1)], dim=1)


def merge(sequences: Tensor, height: int, width: int) -> Tensor:
    """The adjoint of :func:`split`: every token back in its place, summed over the directions."""
    batch, _, _, channels = sequences.shape
    by_row = sequences[:, 0] + sequences[:, 2].flip(1)
    by_column = (sequences[:, 1] + sequences[:, 3].flip(1)).view(batch, width, height, channels)
    return by_row.view(batch, height, width, channels) + by_column.transpose(1, 2)


def project(
    sequences: Tensor, x_proj_weight: Tensor, dt_projs_weight: Tensor, states: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Low-rank step sizes ``(batch, 4, L, R)``, step sizes without bias ``(..., E)``, B and C ``(..., N)``."""
    rank = dt_projs_weight.shape[2]
    low, B, C = torch.split(sequences @ x_proj_weight.transpose(1, 2), [rank, states, states], dim=-1)
    return low, low @ dt_projs_weight.transpose(1, 2), B, C


def project_backward(
    grad_steps: Tensor,
    grad_B: Tensor,
    grad_C: Tensor,
    sequences: Tensor,
    low: Tensor,
    x_proj_weight: Tensor,
    dt_projs_weight: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``sequences``, ``x_proj_weight`` and ``dt_projs_weight`` through :func:`project`."""
    grad_rows = torch.cat([grad_steps @ dt_projs_weight, grad_B, grad_C], dim=-1)
    grad_weight = (grad_steps.transpose(2, 3) @ low).sum(0)
    return grad_rows @ x_proj_weight, (grad_rows.transpose(2, 3) @ sequences).sum(0), grad_weight


def softplus_backward(grad: Tensor, raw: Tensor) -> Tensor:
    """Gradient through ``F.softplus``."""
    return grad * torch.sigmoid(raw)


def steps(delta: Tensor, bias: Tensor | None, softplus: bool) -> tuple[Tensor, Tensor]:
    """Step sizes before and after softplus, from ``(batch, channels, L)``."""
    raw = delta if bias is None else delta + bias.unsqueeze(-1)
    return raw, F.softplus(raw) if softplus else raw
