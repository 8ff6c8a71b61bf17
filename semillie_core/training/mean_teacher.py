"""The teacher: an average of the student over time (Tarvainen & Valpola 2017, arXiv 1703.01780)."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def make_teacher(student: M) -> M:
    """A frozen copy of the student in evaluation mode."""
    return copy.deepcopy(student).eval().requires_grad_(False)


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """``teacher = decay * teacher + (1 - decay) * student``; buffers are copied.

    Args:
        teacher: Changed in place.
        student: Of the same architecture.
        decay: In [0, 1).
    """
    for weight, current in zip(teacher.parameters(), student.parameters(), strict=True):
        weight.lerp_(current.to(weight.dtype), 1 - decay)
    for buffer, value in zip(teacher.buffers(), student.buffers(), strict=True):
        buffer.copy_(value)
