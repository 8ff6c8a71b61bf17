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
    channels, height, width = after.shape
    gap = after.new_ones(channels, height, compared_width(width) - 2 * width)
    return torch.cat([before, gap, after], dim=2)


def compared_width(width: int) -> int:
    """Columns of what :func:`side_by_side` makes of photos with ``width`` columns."""
    return 2 * width + max(2, width // 100)
