"""Precision where results would suffer from less: leaving ``torch.autocast``, and float64 whatever the device."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(device: torch.device) -> AbstractContextManager[None]:
    """Switch autocast off for a device type where it is on.

    ``torch.autocast(..., enabled=False)`` alone raises on devices that have no autocast, such as DirectML's, Vulkan's
    and ``meta``.
    """
    kind = device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def at_least_float32(values: Tensor) -> Tensor:
    """Values of half precision in float32; float32 and float64 as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def in_double(values: Tensor) -> Tensor:
    """Values in float64, on the CPU where they are on a device that may have none: Apple's and some of Intel's."""
    return (values if values.device.type in ("cpu", "cuda") else values.cpu()).double()
