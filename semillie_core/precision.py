"""Leaving the lower precision of ``torch.autocast`` where results would suffer from it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def full_precision(device: torch.device) -> AbstractContextManager[None]:
    """Switch autocast off for a device type where it is on.

    ``torch.autocast(..., enabled=False)`` alone raises on devices that have no autocast, such as DirectML's, Vulkan's
    and ``meta``.
    """
    kind = device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()
