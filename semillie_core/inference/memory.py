"""How much memory an enhancement needs, and the tiles that fit into what is free."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from ..network import SemiLLIEConfig

TILES = (2048, 1536, 1024, 768, 512, 384, 256)
"""Tile edges to choose from, in pixels."""

_UNKNOWN_MEMORY = 4 << 30


def working_memory(config: SemiLLIEConfig, pixels: int) -> int:
    """Bytes that enhancing ``pixels`` at once needs beside the weights.

    Measured as peak resident memory on the CPU (512² to 2048², compact and paper configuration), rounded up.
    """
    tokens = pixels // config.downscale**2
    return 160 * config.d_inner * tokens + 100 * pixels


def pick_tile(config: SemiLLIEConfig, height: int, width: int, free: int) -> int | None:
    """The largest tile that fits into memory.

    Args:
        config: The network's.
        height: Rows of the frame.
        width: Columns of the frame.
        free: Bytes that may be used.

    Returns:
        The edge in pixels, the smallest of :data:`TILES` if none fits, or ``None`` if the whole frame fits.
    """
    if working_memory(config, height * width) <= free:
        return None
    fitting = (edge for edge in TILES if working_memory(config, edge * edge) <= free)
    return next(fitting, TILES[-1])


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on a device; where the system does not tell, a cautious guess."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return _UNKNOWN_MEMORY
