"""The recurrence written out, as the yardstick for every backend."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F


def reference_scan(u, delta, A, B, C, D=None, delta_bias=None, delta_softplus=False):
    """One step at a time, any dtype; returns ``(y, last_state)``."""
    batch, channels, length = u.shape
    if B.dim() == 3:
        B, C = B.unsqueeze(1), C.unsqueeze(1)
    repeat = channels // B.shape[1]
    B, C = B.repeat_interleave(repeat, 1), C.repeat_interleave(repeat, 1)
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    dt = F.softplus(delta) if delta_softplus else delta
    state = u.new_zeros(batch, channels, A.shape[1])
    outputs = []
    for t in range(length):
        state = torch.exp(dt[:, :, t, None] * A) * state + (dt[:, :, t] * u[:, :, t])[..., None] * B[..., t]
        y = (C[..., t] * state).sum(-1)
        outputs.append(y if D is None else y + D * u[:, :, t])
    return torch.stack(outputs, -1), state


def reference_scan_2d(x, x_proj_weight, dt_projs_weight, dt_projs_bias, A_logs, Ds):
    """Four flattened sequences, each scanned by the recurrence, put back and summed."""
    batch, height, width, channels = x.shape
    rank, d_state = dt_projs_weight.shape[2], A_logs.shape[1]
    total = torch.zeros_like(x)
    for k in range(4):
        image = x if k % 2 == 0 else x.transpose(1, 2)
        sequence = image.reshape(batch, height * width, channels)
        if k >= 2:
            sequence = sequence.flip(1)
        dt, B, C = (sequence @ x_proj_weight[k].t()).split([rank, d_state, d_state], -1)
        part = slice(k * channels, (k + 1) * channels)
        y, _ = reference_scan(
            sequence.transpose(1, 2),
            (dt @ dt_projs_weight[k].t()).transpose(1, 2),
            -torch.exp(A_logs[part]),
            B.transpose(1, 2),
            C.transpose(1, 2),
            Ds[part],
            dt_projs_bias[k],
            True,
        )
        y = y.transpose(1, 2)
        if k >= 2:
            y = y.flip(1)
        y = y.reshape(image.shape)
        total = total + (y if k % 2 == 0 else y.transpose(1, 2))
    return total


def make_inputs_2d(batch, height, width, channels, d_state, rank, dtype=torch.float64, seed=0):
    """Inputs of the size they have in a trained network."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape, scale=1.0):
        return (scale * torch.randn(*shape, generator=g, dtype=torch.float64)).to(dtype)

    return (
        draw(batch, height, width, channels),
        draw(4, rank + 2 * d_state, channels, scale=channels**-0.5),
        draw(4, channels, rank, scale=rank**-0.5),
        draw(4, channels) - 2,
        (
            torch.arange(1, d_state + 1).log().expand(4 * channels, -1)
            + draw(4 * channels, d_state, scale=0.2)
        ).to(dtype),
        draw(4 * channels),
    )


@pytest.fixture(scope="session")
def scan_reference():
    return reference_scan


@pytest.fixture(scope="session")
def scan_2d_reference():
    return reference_scan_2d


@pytest.fixture(scope="session")
def scan_2d_inputs():
    return make_inputs_2d
