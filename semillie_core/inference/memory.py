"""How much memory an enhancement needs, and the tiles that fit into what is free."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..network import SemiLLIEConfig

TILES = (2048, 1536, 1024, 768, 512, 384, 256)
"""Tile edges to choose from, in pixels."""

_UNKNOWN_MEMORY = 4 << 30
_FRAME_BYTES = 60
"""What a frame takes per pixel beside the tile that is being worked on: itself, the sum of the tiles, their weights and
what the controls make of it."""
_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")


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
    free -= _FRAME_BYTES * height * width
    fitting = (edge for edge in TILES if working_memory(config, edge * edge) <= free)
    return next(fitting, TILES[-1])


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on a device; where the system does not tell, a cautious guess."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    if device.type == "xpu":
        return _free_on_xpu(device)
    if device.type != "cpu":
        return _UNKNOWN_MEMORY
    return max(0, min([_free_in_system(), *_free_in_cgroups()]))


def _free_on_xpu(device: torch.device) -> int:
    try:
        free, _ = torch.xpu.mem_get_info(device)
    except (AttributeError, RuntimeError):  # PyTorch before 2.6, or a driver that does not count
        return _UNKNOWN_MEMORY
    return int(free) + torch.xpu.memory_reserved(device) - torch.xpu.memory_allocated(device)


def _free_in_system() -> int:
    available = _number_after("MemAvailable:", _PROC / "meminfo")
    if available is not None:
        return available << 10
    windll: Any = getattr(ctypes, "windll", None)
    if windll is not None:
        status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
        if windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
            # Windows hands out no more than it has promised room for, in memory or on disk.
            return int(min(status.available_physical, status.available_commit))
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return _UNKNOWN_MEMORY


class _MemoryStatus(ctypes.Structure):
    """``MEMORYSTATUSEX`` of the Windows API."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        *(
            (name, ctypes.c_uint64)
            for name in (
                "total_physical",
                "available_physical",
                "total_commit",
                "available_commit",
                "total_virtual",
                "available_virtual",
                "available_extended_virtual",
            )
        ),
    )


def _free_in_cgroups() -> Iterator[int]:
    """What each limit leaves that is set on this process or a container around it (Linux)."""
    try:
        entries = (_PROC / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for entry in entries:
        hierarchy, controllers, path = entry.split(":", 2)
        if hierarchy == "0":
            root, names = _CGROUPS, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            root = _CGROUPS / "memory"
        else:
            continue
        own = root / path.lstrip("/")
        # From inside a container, its own group may be the root and the path one of the host's.
        for folder in (own, *own.parents):
            if not folder.is_relative_to(root):
                break
            try:
                limit, used = (int((folder / name).read_text(encoding="ascii")) for name in names[:2])
            except (OSError, ValueError):  # not there, or no limit: "max"
                continue
            # Cached files count as used, but make room.
            yield limit - used + (_number_after(names[2], folder / "memory.stat") or 0)


def _number_after(name: str, file: Path) -> int | None:
    """The number that follows a name at the start of a line, where there is one."""
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name} ")), None)
