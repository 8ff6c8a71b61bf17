"""Pictures that show a photo before and after."""

from __future__ import annotations

import torch
from torch import Tensor


def side_by_side(before: Tensor, after: Tensor) -> Tensor:
    """Put two versions of a photo next to each other, with a white gap of a hundredth of their width.

    Args:
        before: ``(C, H, W)`` in [0, 1], shown on the left.
        after: Same shape, shown on the right.

    Returns:
        ``(C, H, 2 W + gap)``.
    """
    gap = after.new_ones(after.shape[0], after.shape[1], max(2, after.shape[2] // 100))
    return torch.cat([before, gap, after], dim=2)
