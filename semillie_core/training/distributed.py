"""Several processes on one global batch, through PyTorch's own engine.

One process needs no launcher. ``torchrun`` (or any launcher that sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
MASTER_PORT, such as SLURM's, Ray Train's or accelerate's) starts several.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..devices import AUTO, pick_device
from ..precision import at_least_float32

T = TypeVar("T")


@dataclass(frozen=True)
class Process:
    """This process among those of the run."""

    rank: int
    """Its number, from 0."""
    world: int
    """How many there are."""
    device: torch.device
    """Where it computes."""

    @property
    def leads(self) -> bool:
        """Whether it writes the run's files."""
        return self.rank == 0

    def wrap(self, module: nn.Module, *, all_used: bool) -> nn.Module:
        """The module with gradients averaged over processes; itself in a run of one.

        Args:
            module: What computes the loss.
            all_used: Whether every parameter that learns has a part in every loss. Otherwise those without are looked
                for in every step, which takes time, and PyTorch warns where there are none.
        """
        if self.world == 1:
            return module
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.register_hook(_into_layout_of(parameter))  # type: ignore[no-untyped-call]
        devices = [self.device.index] if self.device.type == "cuda" else None
        ddp = nn.parallel.DistributedDataParallel
        # The name that PyTorch 2.13 warns of, and its new one.
        names = inspect.signature(ddp).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
        no_buffers: dict[str, Any] = {buffers: False}
        return ddp(module, device_ids=devices, find_unused_parameters=not all_used, **no_buffers)

    def mean(self, values: dict[str, Tensor]) -> dict[str, float]:
        """The average of scalars over processes."""
        if not values:
            return {}
        stacked = torch.stack([at_least_float32(value.detach()) for value in values.values()])
        if self.world > 1:
            dist.all_reduce(stacked)
            stacked /= self.world
        return dict(zip(values, stacked.tolist(), strict=True))

    def gather(self, value: T) -> list[T]:
        """Every process's value, in order of rank."""
        if self.world == 1:
            return [value]
        gathered: list[T | None] = [None] * self.world
        dist.all_gather_object(gathered, value)
        return gathered  # type: ignore[return-value]

    def wait(self) -> None:
        """Continue when all processes have come here."""
        if self.world > 1:
            dist.barrier()


def _into_layout_of(parameter: Tensor) -> Callable[[Tensor], Tensor]:
    """What gives a gradient the strides of its parameter, as PyTorch's buckets of gradients have them.

    Autograd sees to that except for dimensions of size 1, whose strides mean nothing: in channels-last memory those of
    a 1 x 1 kernel are the number of channels, in its gradient they are 1.
    """
    size, strides = parameter.size(), parameter.stride()

    def lay_out(gradient: Tensor) -> Tensor:
        if gradient.stride() == strides:
            return gradient
        return gradient.new_empty_strided(size, strides).copy_(gradient)

    return lay_out


@contextmanager
def this_process(device: str) -> Iterator[Process]:
    """Join the run that the launcher describes in the environment, or be a run of one.

    Args:
        device: As :attr:`RuntimeConfig.device`; with several GPUs each process takes the one of its local rank.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if device == AUTO:
        # Several processes meet through NCCL or Gloo, which serve these two.
        device = pick_device(AUTO) if world == 1 else "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    chosen = torch.device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if world == 1:
        yield Process(0, 1, chosen)
        return
    started = not dist.is_initialized()
    if started:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Process(dist.get_rank(), dist.get_world_size(), chosen)
    finally:
        if started:
            dist.destroy_process_group()
