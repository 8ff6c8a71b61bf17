"""Which implementation of the scan runs, and why.

A backend is a module that offers one or both of two *forms*, ``scan`` and ``scan_2d``; everything around them
(argument checks, dtype policy, the choice of backend, autograd) lives in :mod:`.functional`, :mod:`.operators` and
here. All tensors are contiguous, on one device, in float32 or float64, and autograd does not see what happens inside.
For a form ``F`` the module has three functions:

``F_forward(*inputs, keep) -> (*outputs, saved)``
    ``saved`` is a list of new tensors for the backward pass, empty unless ``keep``.

``F_backward(*gradients of the outputs, *inputs, saved) -> gradients``
    One per tensor among the inputs, in their order and shape; ``None`` for an input that is ``None``.

``F_saved(shape, ...) -> list of shapes``
    Of ``saved``, all in the dtype of the first input: what tracing needs to know without running anything.

``scan``
    Inputs ``u, delta, A, B, C, D, delta_bias, delta_softplus``, shapes as in :func:`.functional.selective_scan` with
    ``B``/``C`` always grouped ``(batch, G, N, L)``; ``D`` and ``delta_bias`` may be ``None``. Outputs ``y`` and the
    last state. ``scan_saved(u.shape, G, N)``.

``scan_2d``
    Inputs ``x, x_proj_weight, dt_projs_weight, dt_projs_bias, A, D``, shapes as in
    :func:`.functional.selective_scan_2d`, with ``A`` (negative, ``(4E, N)``) already formed from ``A_logs``. Output
    ``y``. ``scan_2d_saved(x.shape, N, R)``.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import torch

BACKEND_ENV = "SEMILLIE_SCAN_BACKEND"
"""Environment variable that overrides the automatic choice of backend by name."""


@dataclass(frozen=True)
class ScanBackend:
    """One implementation of the scan."""

    name: str
    """Name used in arguments, in ``SEMILLIE_SCAN_BACKEND`` and in reports."""
    module: str
    """Module inside this package; it has ``unavailable_reason() -> str | None`` and the kernel functions."""
    devices: frozenset[str] | None
    """``torch.device.type`` values it runs on; ``None`` means every device PyTorch has."""
    dtypes: frozenset[torch.dtype]
    """Compute dtypes it offers."""

    def load(self) -> ModuleType:
        """Import the implementation."""
        return importlib.import_module(f".{self.module}", __package__)

    def unavailable_reason(self) -> str | None:
        """Why this backend cannot be used in this process, or ``None`` when it can."""
        return _unavailable_reason(self)

    def supports(self, device: torch.device, dtype: torch.dtype) -> bool:
        """Whether inputs of this kind can be given to it."""
        return (self.devices is None or device.type in self.devices) and dtype in self.dtypes

    def offers(self, form: str) -> bool:
        """Whether it has ``form`` (``"scan"`` or ``"scan_2d"``)."""
        return hasattr(self.load(), f"{form}_forward")


@cache
def _unavailable_reason(backend: ScanBackend) -> str | None:
    reason: str | None = backend.load().unavailable_reason()
    return reason


_SINGLE_AND_DOUBLE = frozenset({torch.float32, torch.float64})

# In order of preference; "chunked" runs everywhere.
BACKENDS: tuple[ScanBackend, ...] = (
    ScanBackend("native", "native", frozenset({"cpu"}), frozenset({torch.float32})),
    ScanBackend("mamba", "mamba", frozenset({"cuda"}), frozenset({torch.float32})),
    ScanBackend("chunked", "chunked", None, _SINGLE_AND_DOUBLE),
    # Checked in Triton's interpreter but not yet on a GPU, so it runs only where it is asked for by name.
    ScanBackend("triton", "triton_scan", frozenset({"cuda"}), frozenset({torch.float32})),
)

_BY_NAME = {backend.name: backend for backend in BACKENDS}


def available_backends() -> dict[str, str | None]:
    """Every known backend, best first, with the reason it cannot be used here (``None`` when it can)."""
    return {backend.name: backend.unavailable_reason() for backend in BACKENDS}


def resolve_backend(
    device: torch.device, dtype: torch.dtype, *, form: str = "scan_2d", name: str | None = None
) -> ScanBackend:
    """Choose the backend for inputs on ``device`` computed in ``dtype``.

    Args:
        device: Where the inputs are.
        dtype: Compute dtype, float32 or float64.
        form: ``"scan"`` or ``"scan_2d"``.
        name: Insist on this backend; the default is the environment variable ``SEMILLIE_SCAN_BACKEND``, and
            without it the best available one.

    Raises:
        ValueError: The named backend does not exist, is unavailable, or cannot take such inputs.
    """
    wanted = name or os.environ.get(BACKEND_ENV) or None
    if wanted is None:
        for backend in BACKENDS:
            if (
                backend.supports(device, dtype)
                and backend.unavailable_reason() is None
                and backend.offers(form)
            ):
                return backend
        raise ValueError(f"No selective-scan backend supports {dtype} on {device}.")
    source = "" if name else f" (from the environment variable {BACKEND_ENV})"
    if wanted not in _BY_NAME:
        raise ValueError(f"Unknown selective-scan backend {wanted!r}{source}. Known: {', '.join(_BY_NAME)}.")
    backend = _BY_NAME[wanted]
    reason = backend.unavailable_reason()
    if reason is not None:
        raise ValueError(f"Selective-scan backend {wanted!r}{source} is not available: {reason}")
    if not backend.supports(device, dtype) or not backend.offers(form):
        raise ValueError(f"Selective-scan backend {wanted!r}{source} has no {form} for {dtype} on {device}.")
    return backend
