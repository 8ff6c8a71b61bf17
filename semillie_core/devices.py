"""Which of PyTorch's devices to compute on."""

from __future__ import annotations

import torch

AUTO = "auto"


def pick_device(name: str) -> str:
    """A device that is there.

    Args:
        name: ``cpu``, ``cuda``, ``mps``, ``xpu``, a numbered one such as ``cuda:1``, or ``auto``: an NVIDIA or AMD GPU,
            else an Apple GPU, else an Intel GPU, else the CPU.

    Returns:
        Its name, numbered where there can be several.

    Raises:
        ValueError: The named one is not; the message names those that are.
    """
    # Only counted: every process of a run would take memory of the first GPU.
    found = [f"cuda:{index}" for index in range(torch.cuda.device_count() * torch.cuda.is_available())]
    found += ["mps"] * torch.backends.mps.is_available()
    found += [f"xpu:{index}" for index in range(torch.xpu.device_count() * torch.xpu.is_available())]
    found += ["cpu"]
    for device in found:
        if name in (AUTO, device, device.removesuffix(":0")):
            return device
    raise ValueError(
        f"PyTorch {torch.__version__} finds no {name} device here: use {AUTO}, or {' or '.join(found)}."
    )
