"""Losses between an output and its reference, pixel by pixel."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..network.blocks import GradientMagnitude


def structure_loss(output: Tensor, target: Tensor) -> Tensor:
    """``0.8 * mean|x - y| + 0.2 * mean (x - y)^2``, the structure loss of Semi-LLIE's released trainer.

    Args:
        output: ``(B, C, H, W)``.
        target: Same shape.

    Returns:
        A scalar.
    """
    return 0.8 * F.l1_loss(output, target) + 0.2 * F.mse_loss(output, target)


def gradient_loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of gradient magnitudes.

    Counted once; the released trainer adds the same term twice (its network's second output is the gradient of its
    first). With zero padding a border pixel's gradient is about its value, as there.

    Args:
        output: ``(B, C, H, W)``.
        target: Same shape.

    Returns:
        A scalar.
    """
    gradient = GradientMagnitude().to(output.device, output.dtype)
    return F.l1_loss(gradient(output), gradient(target))
