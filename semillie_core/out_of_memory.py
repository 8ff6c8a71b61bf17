"""Telling failed allocations from other errors, whatever the device."""

from __future__ import annotations

import torch

_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",  # the CPU, Linux and macOS
    "not enough memory",  # the CPU, Windows
    "not enough GPU video memory",  # DirectML
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that an allocation failed."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(said in str(error) for said in _OUT_OF_MEMORY)
    )
