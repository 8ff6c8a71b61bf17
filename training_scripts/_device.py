"""The check of a device's name that commands make before they start."""

from __future__ import annotations

import torch


def check_device(name: str) -> None:
    """Refuse a device that is not there.

    Args:
        name: As PyTorch names devices, or ``auto``, which is always there.

    Raises:
        ValueError: PyTorch does not know the device, or does not find it here.
    """
    if name == "auto":
        return
    try:
        device = torch.device(name)
        if device.type != "cuda":
            torch.empty(0, device=device)
            return
    # Which of them depends on the device.
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"PyTorch {torch.__version__} cannot use device {name!r} here: use {_found()}."
        ) from error
    # Only counted: every process of a run would take memory of the first GPU.
    if (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"PyTorch {torch.__version__} finds no device {name!r} here: use {_found()}.")


def _found() -> str:
    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return " or ".join([*cuda, *["mps"] * torch.backends.mps.is_available(), "cpu"])
