"""Failed allocations: telling them from other errors, whatever the device, and going on with less at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

_Made = TypeVar("_Made")
_OUT_OF_MEMORY = (
    "out of memory",  # CUDA, HIP, MPS and XPU
    "_ALLOC_FAILED",  # cuBLAS, hipBLAS and cuDNN
    "_ALLOCATION_FAILED",  # cuDNN 9
    "Invalid buffer size",  # MPS, of a tensor larger than its buffers may be
    "ERROR_OUT_OF_DEVICE_MEMORY",  # Level Zero, below XPU
    "ERROR_OUT_OF_HOST_MEMORY",
    "ERROR_OUT_OF_RESOURCES",
    "can NOT allocate memory block",  # XPU, of a tensor larger than its blocks may be
    "can't allocate memory",  # the CPU, Linux and macOS
    "not enough memory",  # the CPU, Windows
    "bad_alloc",  # C++ code on the CPU
    "not enough GPU video memory",  # DirectML
)
# Not CUDNN_STATUS_NOT_INITIALIZED and its like: a driver that does not fit says so as well.


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that an allocation failed."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(said in str(error) for said in _OUT_OF_MEMORY)
    )


def in_batches(
    count: int,
    batch_size: int,
    work: Callable[[slice], _Made],
    out_of_memory: Callable[[BaseException], bool] = is_out_of_memory,
) -> Iterator[tuple[slice, _Made]]:
    """Work on items in batches, of half the size from where memory runs out.

    Args:
        count: Number of items.
        batch_size: How many to begin with, at least 1.
        work: Called with the items of a batch. What it raises for a single item, and what is no failed allocation,
            passes through.
        out_of_memory: Tells failed allocations from other errors.

    Yields:
        The items of each batch, and what ``work`` made of them.
    """
    start = 0
    while start < count:
        now = slice(start, min(start + batch_size, count))
        try:
            made = work(now)
        except Exception as error:
            if now.stop - start == 1 or not out_of_memory(error):
                raise
            batch_size = math.ceil((now.stop - start) / 2)
            continue
        yield now, made
        start = now.stop
