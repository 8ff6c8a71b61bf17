"""Public scan functions: argument checks, dtype policy and dispatch to a backend."""

from __future__ import annotations

import torch
from torch import Tensor

from ..precision import full_precision

DIRECTIONS = 4
"""Row-major, column-major, and the reverse of each."""


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    return_last_state: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Run the selective state-space recurrence along the last axis.

    With ``dt = softplus(delta + delta_bias)`` (or ``delta + delta_bias``), ``h_0 = 0`` and channel ``c`` using
    group ``c // (channels / G)``::

        h_t = exp(dt_t * A) * h_{t-1} + dt_t * B_t * u_t
        y_t = <C_t, h_t> + D * u_t

    (Mamba, arXiv 2312.00752, §3; the formula of Semi-LLIE's SS2D.) Half-precision inputs are computed in float32;
    float64 stays float64.

    Args:
        u: Input sequence, ``(batch, channels, L)``.
        delta: Step sizes before bias and softplus, ``(batch, channels, L)``.
        A: State decay rates, ``(channels, N)``; negative for a stable recurrence.
        B: Input weights, ``(batch, N, L)`` or grouped ``(batch, G, N, L)``.
        C: Output weights, shaped like ``B``.
        D: Skip weights, ``(channels,)``.
        delta_bias: ``(channels,)``, added to ``delta``.
        delta_softplus: Apply softplus to the biased step sizes.
        return_last_state: Also return ``h_L``, ``(batch, channels, N)``.
        backend: Name of the backend to use instead of the automatic choice.

    Returns:
        ``y`` of ``u``'s shape and dtype; with ``return_last_state`` the pair ``(y, h_L)``, the state in the
        compute dtype.

    Raises:
        ValueError: Shapes do not fit together, or the backend cannot be used.
    """
    if u.dim() != 3 or delta.shape != u.shape:
        raise ValueError(
            f"u and delta must both be (batch, channels, L), got {tuple(u.shape)} and {tuple(delta.shape)}."
        )
    batch, channels, length = u.shape
    if A.dim() != 2 or A.shape[0] != channels:
        raise ValueError(f"A must be (channels={channels}, N), got {tuple(A.shape)}.")
    if B.dim() == 3:
        B = B.unsqueeze(1)
    if C.dim() == 3:
        C = C.unsqueeze(1)
    groups, d_state = B.shape[1], A.shape[1]
    expected = (batch, groups, d_state, length)
    if B.shape != expected or C.shape != expected or groups == 0 or channels % groups:
        raise ValueError(
            f"B and C must be (batch={batch}, G, N={d_state}, L={length}) with G dividing {channels} channels, "
            f"got {tuple(B.shape)} and {tuple(C.shape)}."
        )
    for name, vector in (("D", D), ("delta_bias", delta_bias)):
        if vector is not None and vector.shape != (channels,):
            raise ValueError(f"{name} must be (channels={channels},), got {tuple(vector.shape)}.")

    # Not at the top: PyTorch takes longer to register operators than all else that the pack does at ComfyUI's start.
    from .operators import run_scan

    dtype = _compute_dtype(u, delta, A, B, C)
    with full_precision(u.device):
        y, last_state = run_scan(
            _prepare(u, dtype),
            _prepare(delta, dtype),
            _prepare(A, dtype),
            _prepare(B, dtype),
            _prepare(C, dtype),
            None if D is None else _prepare(D, dtype),
            None if delta_bias is None else _prepare(delta_bias, dtype),
            delta_softplus,
            backend=backend,
        )
    y = y.to(u.dtype)
    return (y, last_state) if return_last_state else y


def selective_scan_2d(
    x: Tensor,
    x_proj_weight: Tensor,
    dt_projs_weight: Tensor,
    dt_projs_bias: Tensor,
    A_logs: Tensor,
    Ds: Tensor,
    *,
    backend: str | None = None,
) -> Tensor:
    """Scan an image in four directions and sum the results, projections included.

    The core of Semi-LLIE's SS2D: for the row-major sequence of ``x``, the column-major one and the reverse of
    each, ``[dt_r, B, C] = x_proj_weight[k] @ x_t``, ``dt = softplus(dt_projs_weight[k] @ dt_r + dt_projs_bias[k])``,
    the recurrence of :func:`selective_scan` with ``A = -exp(A_logs)``, and the four outputs added back in image
    order. Half-precision inputs are computed in float32; float64 stays float64.

    Args:
        x: Channels-last features, ``(batch, H, W, E)``, any ``H, W >= 1``.
        x_proj_weight: ``(4, R + 2N, E)``.
        dt_projs_weight: ``(4, E, R)``.
        dt_projs_bias: ``(4, E)``.
        A_logs: ``(4E, N)``, direction-major.
        Ds: Skip weights, ``(4E,)``, direction-major.
        backend: Name of the backend to use instead of the automatic choice.

    Returns:
        ``(batch, H, W, E)`` in ``x``'s dtype.

    Raises:
        ValueError: Shapes do not fit together, or the backend cannot be used.
    """
    if x.dim() != 4:
        raise ValueError(f"x must be (batch, H, W, E), got {tuple(x.shape)}.")
    E = x.shape[3]
    if A_logs.dim() != 2 or dt_projs_weight.dim() != 3:
        raise ValueError("A_logs must be (4E, N) and dt_projs_weight (4, E, R).")
    N, R = A_logs.shape[1], dt_projs_weight.shape[2]
    for name, tensor, shape in (
        ("x_proj_weight", x_proj_weight, (DIRECTIONS, R + 2 * N, E)),
        ("dt_projs_weight", dt_projs_weight, (DIRECTIONS, E, R)),
        ("dt_projs_bias", dt_projs_bias, (DIRECTIONS, E)),
        ("A_logs", A_logs, (DIRECTIONS * E, N)),
        ("Ds", Ds, (DIRECTIONS * E,)),
    ):
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must be {shape} for x {tuple(x.shape)}, got {tuple(tensor.shape)}.")

    from .operators import run_scan_2d  # as above

    dtype = _compute_dtype(x, x_proj_weight, dt_projs_weight, A_logs)
    with full_precision(x.device):
        A = -torch.exp(_prepare(A_logs, dtype))
        y = run_scan_2d(
            _prepare(x, dtype),
            _prepare(x_proj_weight, dtype),
            _prepare(dt_projs_weight, dtype),
            _prepare(dt_projs_bias, dtype),
            A,
            _prepare(Ds, dtype),
            backend=backend,
        )
    return y.to(x.dtype)


def _compute_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 if any input is, else float32: exp(dt * A) over thousands of steps needs at least that."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def _prepare(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype).contiguous()
